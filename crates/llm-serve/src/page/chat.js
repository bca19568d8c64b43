// The chat page: what is on the screen, and what happens when something is pressed. Conversations are tree.js, the network is
// stream.js, Markdown is markdown.js, what is kept is store.js.

import * as tree from './tree.js';
import { update } from './markdown.js';
import { ServerError, chat, models } from './stream.js';
import { FIELDS, forget, key, load, sampling, save, setKey, store, touch } from './store.js';

const $ = (id) => document.getElementById(id);
const touchScreen = matchMedia('(pointer: coarse)');
const narrow = matchMedia('(max-width: 52rem)');

// The answer that grows, or null: { node, abort, conversation }.
let running = null;
let cards = [];
let pictures = [];
let countdown = null;
let follow = true;

function make(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

function button(label, name, action) {
  const node = make('button', '', name ? icon(name) : label);
  node.type = 'button';
  if (name) {
    node.setAttribute('aria-label', label);
    node.title = label;
  }
  node.addEventListener('click', action);
  return node;
}

function say(text) {
  $('status').textContent = text;
}

// --- the thread -----------------------------------------------------------------------------------------------------------

const shown = new Map();

function draw() {
  const nodes = tree.path(store.current);
  $('empty').hidden = nodes.length > 0;
  const wanted = nodes.map((node) => turn(node));
  $('thread').replaceChildren(...wanted);
  for (const id of shown.keys()) if (!nodes.some((node) => node.id === id)) shown.delete(id);
  document.title = store.current.title ? `${store.current.title} – Chat` : 'Chat';
  drawList();
  settle();
}

function turn(node) {
  let item = shown.get(node.id);
  if (!item) {
    item = make('li', `turn ${node.role}`);
    item.dataset.id = node.id;
    shown.set(node.id, item);
    if (node.role === 'user') drawQuestion(item, node);
    else drawAnswer(item, node);
  } else {
    drawUnder(item, node);
  }
  return item;
}

function drawQuestion(item, node) {
  const parts = [make('span', 'quiet', 'You')];
  if (node.images.length) {
    const frame = make('div', 'shown');
    for (const url of node.images) {
      const img = make('img');
      img.src = url;
      img.alt = 'Picture with this question';
      frame.append(img);
    }
    parts.push(frame);
  }
  if (node.content) parts.push(make('div', 'said', node.content));
  item.replaceChildren(...parts, make('div', 'under'));
  drawUnder(item, node);
}

function drawAnswer(item, node) {
  const growing = running && running.node === node;
  item.classList.toggle('growing', Boolean(growing));
  if (!item.querySelector('.prose')) {
    const thought = make('details', 'thought', make('summary', '', 'Thinking'), make('div', 'inner'));
    item.replaceChildren(make('span', 'quiet', 'Answer'), thought, make('div', 'prose'), make('div', 'under'));
  }
  const [thought, prose] = [item.querySelector('.thought'), item.querySelector('.prose')];
  thought.hidden = !node.reasoning;
  const inner = thought.querySelector('.inner');
  // Text is only ever added while the answer grows, so a selection in it stays.
  const had = inner.textContent.length;
  if (node.reasoning.length > had) inner.append(node.reasoning.slice(had));
  const seconds = node.stats && node.stats.thinking;
  const label = growing && !node.content ? 'Thinking …' : seconds ? `Thought for ${time(seconds)}` : 'Thought';
  const summary = thought.querySelector('summary');
  if (summary.textContent !== label) summary.textContent = label;
  update(prose, node.content);
  item.querySelector('.waiting')?.remove();
  if (growing && !node.content && !node.reasoning) {
    const dots = make('div', 'waiting', make('i'), make('i'), make('i'));
    dots.setAttribute('aria-hidden', 'true');
    prose.before(dots);
  }
  drawUnder(item, node);
}

function time(seconds) {
  if (seconds < 10) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  return seconds < 90 ? `${Math.round(seconds)} s` : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
}

// Branches, actions and numbers below a message.
function drawUnder(item, node) {
  const under = item.querySelector('.under');
  if (!under) return;
  const parts = [];
  const busy = Boolean(running);
  const branches = tree.siblings(store.current, node);
  if (branches.length > 1) {
    const at = branches.indexOf(node);
    const go = (step) => () => {
      tree.select(store.current, branches[at + step]);
      save();
      draw();
      $('thread').querySelector(`[data-id="${branches[at + step].id}"] .branch button`)?.focus();
    };
    const back = button('Previous version', 'left', go(-1));
    const next = button('Next version', 'right', go(1));
    back.disabled = busy || at === 0;
    next.disabled = busy || at === branches.length - 1;
    const place = make('span', '', `${at + 1} / ${branches.length}`);
    parts.push(make('span', 'branch', back, place, next));
  }
  const growing = running && running.node === node;
  if (!growing) {
    parts.push(button('Copy', 'copy', (event) => copy(node.content, event.currentTarget)));
    if (node.role === 'user') {
      const change = button('Edit', 'edit', () => edit(item, node));
      change.disabled = busy;
      parts.push(change);
    } else {
      const again = button('Answer again', 'again', () => regenerate(node));
      again.disabled = busy;
      parts.push(again);
    }
  }
  if (node.role === 'assistant') parts.push(stats(node, growing));
  under.replaceChildren(...parts);
}

function stats(node, growing) {
  const s = node.stats || {};
  const words = [];
  if (s.tokens) words.push(`${s.tokens} token${s.tokens === 1 ? '' : 's'}`);
  if (s.tokens > 1 && s.seconds > s.first) words.push(`${((s.tokens - 1) / (s.seconds - s.first)).toPrecision(3)} tokens/s`);
  if (Number.isFinite(s.first)) words.push(`first after ${time(s.first)}`);
  if (s.finish === 'length') words.push('cut at its longest length');
  if (s.finish === 'stopped') words.push('stopped');
  if (s.model && cards.length > 1) words.push(s.model);
  const line = make('span', 'stats', ...words.map((word) => make('span', '', word)));
  if (growing) line.setAttribute('aria-hidden', 'true');
  return line;
}

async function copy(text, target) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages without https have no clipboard; the old way still works.
    const area = make('textarea', 'quiet');
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  say('Copied');
  const before = [...target.childNodes];
  target.replaceChildren(target.dataset.copy ? 'Copied' : icon('check'));
  setTimeout(() => target.replaceChildren(...before), 1400);
}

// --- asking ---------------------------------------------------------------------------------------------------------------

function ask(parent, content, images) {
  const conversation = store.current;
  touch(conversation);
  const question = tree.add(conversation, parent, 'user', content, images);
  answer(question);
}

function regenerate(node) {
  if (running) return;
  const question = tree.find(store.current, node.parent);
  // An answer that never began is not worth a branch.
  if (!node.content && !node.reasoning) tree.remove(store.current, node);
  if (question) answer(question);
}

async function answer(question) {
  stopCountdown();
  const conversation = store.current;
  conversation.leaf = question.id;
  const asked = tree.path(conversation);
  const node = tree.add(conversation, question.id, 'assistant', '');
  node.stats = { first: null, seconds: null, thinking: null, tokens: 0, finish: null, model: $('model').value || null };
  const abort = new AbortController();
  running = { node, abort, conversation };
  follow = true;
  draw();
  buttons();
  say('The answer begins');
  const start = performance.now();
  const since = () => (performance.now() - start) / 1000;
  let frame = 0;
  const redraw = () => {
    frame = 0;
    const item = shown.get(node.id);
    if (item && running && running.node === node) {
      drawAnswer(item, node);
      settle();
    }
  };
  let error = null;
  try {
    const body = { ...sampling(), messages: tree.messages(asked, store.settings.system || '') };
    if ($('model').value) body.model = $('model').value;
    const result = await chat({
      key: key(),
      body,
      signal: abort.signal,
      onDelta: ({ content, reasoning }) => {
        const s = node.stats;
        if (s.first === null) s.first = since();
        s.seconds = since();
        if (reasoning) s.thinking = s.seconds - s.first;
        // Until the server counts, a piece is taken for a token.
        s.tokens++;
        node.reasoning += reasoning;
        node.content += content;
        frame ||= requestAnimationFrame(redraw);
        save();
      },
    });
    node.stats.finish = result.finish;
    if (result.usage) node.stats.tokens = result.usage.completion_tokens;
  } catch (caught) {
    if (caught.name === 'AbortError') node.stats.finish = 'stopped';
    else error = caught;
  }
  cancelAnimationFrame(frame);
  running = null;
  conversation.updated = Date.now();
  const empty = !node.content && !node.reasoning;
  // Stopped or refused before it began: there is nothing to keep, only something to say.
  if (empty && !error && node.stats.finish === 'stopped') {
    tree.remove(conversation, node);
    shown.delete(node.id);
  }
  if (conversation === store.current) {
    draw();
    const item = shown.get(node.id);
    if (item) drawAnswer(item, node);
    if (error && item) fail(item, node, error);
  } else {
    shown.delete(node.id);
  }
  buttons();
  save(true);
  if (!error) say(node.stats.finish === 'stopped' ? 'Stopped' : 'The answer is complete');
}

function stop() {
  if (running) running.abort.abort();
}

// What went wrong, and what to do about it.
function fail(item, node, error) {
  const known = error instanceof ServerError;
  const status = known ? error.status : -1;
  const words = [];
  const actions = [];
  const retry = (label) => button(label, null, () => regenerate(node));
  if (status === 401 || status === 403) {
    words.push('This server wants an API key', status === 401 && !key() ? 'Enter it in the settings; it is forgotten when this tab closes.' : error.message);
    actions.push(button('Enter a key', null, () => openSettings('key')), retry('Try again'));
  } else if (status === 429 || status === 503) {
    words.push(status === 429 ? 'The server has too much to do' : 'The server is not ready', error.message);
    const own = /quota/.test(error.code || '');
    const again = retry('Try now');
    actions.push(again);
    if (error.wait !== null && !own) count(again, error.wait, () => regenerate(node));
  } else if (status === 0) {
    words.push('The server does not answer', 'Is it still running? Nothing is lost: the conversation is kept here.');
    actions.push(retry('Try again'));
  } else if (error.code === 'context_length_exceeded') {
    words.push('The conversation is longer than the model can read', `${error.message}. Begin a new one, edit an earlier question, or allow a shorter answer.`);
    actions.push(button('New conversation', null, begin), button('Settings', null, () => openSettings('max_tokens')));
  } else if (status === 404) {
    words.push('The server does not have this model any more', error.message);
    actions.push(button('Look again', null, async () => { await refresh(); regenerate(node); }));
  } else if (status === 400 || status === 413 || status === 422) {
    words.push('The server does not accept this question', error.message);
    actions.push(button('Settings', null, () => openSettings()), retry('Try again'));
  } else {
    words.push(node.content || node.reasoning ? 'The answer broke off' : 'Something went wrong', known ? error.message : 'An unexpected error in this page; see the browser\u2019s console.');
    actions.push(retry('Answer again'));
    if (!known) console.error(error);
  }
  const box = make('div', 'failure', make('strong', '', words[0]), make('p', '', words[1]), make('div', 'row', ...actions));
  box.setAttribute('role', 'alert');
  item.querySelector('.failure')?.remove();
  item.querySelector('.under').before(box);
  if (!node.content && !node.reasoning) item.querySelector('.under').replaceChildren();
  settle();
}

function count(target, seconds, action) {
  let left = Math.max(1, Math.ceil(seconds));
  const show = () => { target.textContent = `Trying again in ${left} s – now`; };
  show();
  countdown = setInterval(() => {
    left--;
    if (left > 0) return show();
    stopCountdown();
    if (!running && target.isConnected) action();
  }, 1000);
}

function stopCountdown() {
  clearInterval(countdown);
  countdown = null;
}

function edit(item, node) {
  const area = make('textarea');
  area.value = node.content;
  area.setAttribute('aria-label', 'Change the question');
  const close = () => drawQuestion(item, node);
  const send = () => {
    if (running || (!area.value.trim() && !node.images.length)) return;
    ask(node.parent, area.value.trim(), node.images);
    $('ask').focus();
  };
  const done = button('Ask this instead', null, send);
  done.className = 'done';
  const cancel = button('Cancel', null, close);
  cancel.className = 'text';
  area.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') { event.stopPropagation(); close(); }
    if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && !touchScreen.matches) { event.preventDefault(); send(); }
  });
  item.replaceChildren(make('div', 'edit', area, make('div', 'row', cancel, done)));
  area.focus();
}

// --- the composer ---------------------------------------------------------------------------------------------------------

function buttons() {
  const send = $('send');
  const label = running ? 'Stop' : 'Send';
  send.setAttribute('aria-label', label);
  send.title = label;
  send.replaceChildren(icon(running ? 'stop' : 'send'));
  send.disabled = !running && !$('ask').value.trim() && !pictures.length;
  $('hint').textContent = running ? 'Esc stops' : touchScreen.matches ? '' : 'Enter sends, Shift + Enter starts a line';
}

function grow() {
  const area = $('ask');
  if (CSS.supports('field-sizing', 'content')) return;
  area.style.height = 'auto';
  area.style.height = `${area.scrollHeight}px`;
}

function submit() {
  if (running) return stop();
  const content = $('ask').value.trim();
  if (!content && !pictures.length) return;
  const images = pictures;
  pictures = [];
  $('ask').value = '';
  grow();
  drawPictures();
  ask(store.current.leaf, content, images);
  buttons();
}

function sees() {
  const card = cards.find((c) => c.id === $('model').value);
  return Boolean(card && card.sees);
}

function drawPictures() {
  $('picture').hidden = !sees();
  $('pictures').hidden = !pictures.length;
  $('pictures').replaceChildren(...pictures.map((url, index) => {
    const img = make('img');
    img.src = url;
    img.alt = `Picture ${index + 1}`;
    const drop = button('Remove the picture', 'close', () => { pictures.splice(index, 1); drawPictures(); buttons(); });
    return make('li', '', img, drop);
  }));
  buttons();
}

async function addPictures(files) {
  const some = [...files].filter((file) => file.type.startsWith('image/'));
  if (!some.length) return;
  if (!sees()) return say('This model does not take pictures');
  for (const file of some) {
    try {
      pictures.push(await picture(file));
    } catch {
      say(`${file.name || 'The picture'} cannot be read`);
    }
  }
  drawPictures();
}

// Models look at a few hundred pixels a side; a photo of a phone is made smaller before it is sent.
async function picture(file) {
  const bitmap = await createImageBitmap(file);
  const scale = Math.min(1, 1600 / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && file.size < 2e6 && /^image\/(png|jpeg|webp)$/.test(file.type)) {
    return new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(reader.result);
      reader.onerror = reject;
      reader.readAsDataURL(file);
    });
  }
  const canvas = make('canvas');
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  canvas.getContext('2d').drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return file.type === 'image/png' ? canvas.toDataURL('image/png') : canvas.toDataURL('image/jpeg', 0.9);
}

// --- scrolling ------------------------------------------------------------------------------------------------------------

function settle() {
  const view = $('scroll');
  if (follow) view.scrollTop = view.scrollHeight;
  scrolled();
}

function scrolled() {
  const view = $('scroll');
  const distance = view.scrollHeight - view.scrollTop - view.clientHeight;
  $('latest').hidden = distance < 160;
  return distance;
}

// --- conversations --------------------------------------------------------------------------------------------------------

function drawList() {
  const groups = new Map();
  const day = 864e5;
  const midnight = new Date().setHours(0, 0, 0, 0);
  for (const conversation of store.conversations) {
    const age = midnight - conversation.updated;
    const name = age < 0 ? 'Today' : age < day ? 'Yesterday' : age < 7 * day ? 'This week' : 'Earlier';
    groups.set(name, [...(groups.get(name) || []), conversation]);
  }
  const rows = [];
  for (const [name, list] of groups) {
    rows.push(make('li', 'when', name));
    for (const conversation of list) {
      const open = button(conversation.title || 'New conversation', null, () => show(conversation));
      open.className = 'open';
      open.title = conversation.title;
      const drop = button(`Delete: ${conversation.title}`, 'close', () => discard(conversation));
      drop.className = 'plain delete';
      const row = make('li', 'entry', open, drop);
      if (conversation === store.current) row.setAttribute('aria-current', 'true');
      rows.push(row);
    }
  }
  $('conversations').replaceChildren(...rows);
}

function show(conversation) {
  stop();
  stopCountdown();
  store.current = conversation;
  follow = true;
  shown.clear();
  draw();
  save();
  if (narrow.matches) side(false);
  else $('ask').focus();
}

function begin() {
  show(tree.create());
  $('ask').focus();
}

function discard(conversation) {
  if (!confirm(`Delete “${conversation.title}”?`)) return;
  if (running && running.conversation === conversation) stop();
  forget(conversation);
  shown.clear();
  draw();
  save();
}

function side(open) {
  $('side').classList.toggle('shut', !open);
  $('side-open').setAttribute('aria-expanded', String(open));
  $('shade').hidden = !(open && narrow.matches);
  if (open && narrow.matches) $('new').focus();
}

function exportAll() {
  const list = store.conversations.length ? store.conversations : [store.current];
  const url = URL.createObjectURL(new Blob([tree.exported(list)], { type: 'application/json' }));
  const link = make('a');
  link.href = url;
  link.download = `conversations-${new Date().toISOString().slice(0, 10)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function importAll(file) {
  try {
    const list = tree.imported(await file.text());
    store.conversations.unshift(...list);
    if (list.length) show(list[0]);
    say(`${list.length} conversation${list.length === 1 ? '' : 's'} imported`);
    save(true);
  } catch (error) {
    alert(error.message);
  }
}

// --- model and settings ---------------------------------------------------------------------------------------------------

async function refresh() {
  const select = $('model');
  try {
    cards = await models(key());
    const wanted = store.settings.model;
    select.replaceChildren(...cards.map((card) => {
      const option = make('option', '', card.parent ? `${card.id} (adapter of ${card.parent})` : card.id);
      option.value = card.id;
      return option;
    }));
    if (cards.some((card) => card.id === wanted)) select.value = wanted;
    about();
  } catch (error) {
    cards = [];
    select.replaceChildren(make('option', '', error.status === 401 ? 'API key needed' : error.status === 503 ? 'loading …' : 'no server'));
    select.firstChild.value = '';
    $('about').textContent = error.status === 401 ? 'This server wants an API key: it has a place in the settings.' : error.message;
    if (error.status === 503 || error.status === 0) setTimeout(refresh, (error.wait || 2) * 1000);
  }
  drawPictures();
}

function about() {
  const card = cards.find((c) => c.id === $('model').value);
  if (!card) return;
  const parts = [make('b', '', card.id), ' runs on this server'];
  if (card.context) parts.push(` and reads up to ${card.context.toLocaleString('en')} tokens at a time`);
  parts.push(card.sees ? '. It takes pictures too: drop one here.' : '.', ' The conversation stays in this browser.');
  $('about').replaceChildren(...parts);
}

function openSettings(field) {
  for (const name of FIELDS) $(name).value = store.settings[name] || '';
  $('key').value = key();
  $('settings').showModal();
  if (field) $(field).focus();
}

function closeSettings() {
  for (const name of FIELDS) store.settings[name] = $(name).validity.valid ? $(name).value : store.settings[name] || '';
  const changed = $('key').value.trim() !== key();
  setKey($('key').value.trim());
  save();
  if (changed || !cards.length) refresh();
}

function theme(next) {
  const order = ['auto', 'light', 'dark'];
  const now = order.includes(store.settings.theme) ? store.settings.theme : 'auto';
  const wanted = next ? order[(order.indexOf(now) + 1) % 3] : now;
  store.settings.theme = wanted;
  if (wanted === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = wanted;
  const label = { auto: 'Light or dark: as the system', light: 'Light', dark: 'Dark' }[wanted];
  $('theme').setAttribute('aria-label', label);
  $('theme').title = label;
  if (next) { say(label); save(); }
}

// --- events ---------------------------------------------------------------------------------------------------------------

load();
theme(false);
$('form').addEventListener('submit', (event) => { event.preventDefault(); submit(); });
$('ask').addEventListener('input', () => { grow(); buttons(); });
$('ask').addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && !touchScreen.matches) {
    event.preventDefault();
    if (!running) submit();
  }
  if (event.key === 'ArrowUp' && !$('ask').value && !running) {
    const last = tree.path(store.current).filter((node) => node.role === 'user').pop();
    const item = last && shown.get(last.id);
    if (item) { event.preventDefault(); edit(item, last); }
  }
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && !$('settings').open) {
    if (running) stop();
    else if (narrow.matches && !$('side').classList.contains('shut')) { side(false); $('side-open').focus(); }
  }
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  if (event.key === '/' && !typing && !$('settings').open && !event.ctrlKey && !event.metaKey) { event.preventDefault(); $('ask').focus(); }
});
$('thread').addEventListener('click', (event) => {
  const target = event.target.closest('button[data-copy]');
  if (target) copy(target.closest('figure').querySelector('code').textContent, target);
});
$('scroll').addEventListener('scroll', () => { follow = scrolled() < 60; }, { passive: true });
$('latest').addEventListener('click', () => { follow = true; settle(); });
$('new').addEventListener('click', begin);
$('side-open').addEventListener('click', () => side($('side').classList.contains('shut')));
$('side-close').addEventListener('click', () => { side(false); $('side-open').focus(); });
$('shade').addEventListener('click', () => side(false));
$('export').addEventListener('click', exportAll);
$('import').addEventListener('click', () => $('import-file').click());
$('import-file').addEventListener('change', (event) => { if (event.target.files[0]) importAll(event.target.files[0]); event.target.value = ''; });
$('tune').addEventListener('click', () => openSettings());
$('settings').addEventListener('close', closeSettings);
$('settings').addEventListener('click', (event) => { if (event.target === $('settings')) $('settings').close(); });
$('defaults').addEventListener('click', () => FIELDS.forEach((name) => { $(name).value = ''; }));
$('theme').addEventListener('click', () => theme(true));
$('model').addEventListener('change', () => { store.settings.model = $('model').value; about(); drawPictures(); save(); });
$('picture').addEventListener('click', () => $('picture-file').click());
$('picture-file').addEventListener('change', (event) => { addPictures(event.target.files); event.target.value = ''; });
document.addEventListener('paste', (event) => {
  const files = [...event.clipboardData.files].filter((file) => file.type.startsWith('image/'));
  if (files.length) { event.preventDefault(); addPictures(files); }
});
let over = 0;
const dragged = (event) => [...event.dataTransfer.types].includes('Files');
document.addEventListener('dragenter', (event) => { if (dragged(event) && sees()) { over++; $('drop').hidden = false; } });
document.addEventListener('dragleave', () => { over = Math.max(0, over - 1); if (!over) $('drop').hidden = true; });
document.addEventListener('dragover', (event) => { if (dragged(event)) event.preventDefault(); });
document.addEventListener('drop', (event) => {
  if (!dragged(event)) return;
  event.preventDefault();
  over = 0;
  $('drop').hidden = true;
  addPictures(event.dataTransfer.files);
});
narrow.addEventListener('change', () => side(!narrow.matches));
addEventListener('pagehide', () => save(true));

side(!narrow.matches);
draw();
buttons();
refresh();
if (!narrow.matches) $('ask').focus();
