// The chat page in headless Chromium: what a person does, done by a program.
//
//   mkdir ~/chat-page && cd ~/chat-page && npm install playwright-core
//   node CHECKOUT/benches/peers/chat_page.mjs http://127.0.0.1:8080 [--browser /usr/bin/chromium] [--shots FOLDER]
//
// The page and its headers come from the server at that address. Most of the questions are answered by a stand-in that this script
// starts, because what it tests (thinking, refusals, a connection that breaks, markup in an answer) must happen when it is wanted; the
// last one goes to the server itself. Ends with status 1 at the first thing that is not as it should be.

import assert from 'node:assert/strict';
import http from 'node:http';
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';

const { chromium } = createRequire(path.join(process.cwd(), 'here.js'))('playwright-core');
const args = process.argv.slice(2);
const flag = (name, otherwise) => (args.includes(name) ? args[args.indexOf(name) + 1] : otherwise);
const real = (args[0] || 'http://127.0.0.1:8080').replace(/\/$/, '');
const shots = flag('--shots', null);

// --- the stand-in: the server's own page, answers by script ---------------------------------------------------------------------

const asked = [];
let refusals = 0;
let begun = 0;
let ended = 0;
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const ATTACK = '<img src=x onerror="window.hacked = 1"> <script>window.hacked = 1</script> [x](javascript:window.hacked=1) ![y](http://elsewhere.invalid/y.png)\n\n| a | <b>b</b> |\n|--|--|\n| <i onclick="hacked=1">1</i> | 2 |\n\n```html\n<img onerror=1>\n```\n';

const standIn = http.createServer(async (request, reply) => {
  const url = new URL(request.url, 'http://x');
  if (request.method === 'GET' && url.pathname !== '/v1/models') {
    const page = await fetch(real + url.pathname);
    const headers = {};
    for (const name of ['content-type', 'content-security-policy', 'x-content-type-options', 'referrer-policy']) if (page.headers.has(name)) headers[name] = page.headers.get(name);
    reply.writeHead(page.status, headers);
    return reply.end(Buffer.from(await page.arrayBuffer()));
  }
  const json = (status, body, headers = {}) => {
    reply.writeHead(status, { 'content-type': 'application/json', ...headers });
    reply.end(JSON.stringify(body));
  };
  if (url.pathname === '/v1/models') {
    const card = (id, more) => ({ id, object: 'model', max_model_len: 4096, ...more });
    return json(200, { object: 'list', data: [card('base', { input_modalities: ['text', 'image'] }), card('polite', { parent: 'base', input_modalities: ['text'] })] });
  }
  let text = '';
  for await (const part of request) text += part;
  const body = JSON.parse(text);
  asked.push({ body, authorization: request.headers.authorization || null });
  const last = body.messages.at(-1).content;
  const question = typeof last === 'string' ? last : last.at(-1).text;
  const refuse = (status, code, headers) => json(status, { error: { message: `refused: ${code}`, type: 'x', param: null, code } }, headers);
  if (question === 'locked' && !request.headers.authorization) return refuse(401, 'invalid_api_key');
  if (question === 'crowded' && refusals++ === 0) return refuse(429, 'overloaded', { 'Retry-After': '1' });
  begun++;
  reply.on('close', () => ended++);
  reply.writeHead(200, { 'content-type': 'text/event-stream' });
  const event = (value) => reply.write(`data: ${JSON.stringify(value)}\n\n`);
  const delta = (value, finish = null) => event({ choices: [{ index: 0, delta: value, finish_reason: finish }] });
  delta({ role: 'assistant', content: '' });
  let count = 0;
  const say = async (words, name) => {
    for (const word of words) {
      if (reply.destroyed) return;
      delta({ [name]: word });
      count++;
      await pause(15);
    }
  };
  if (question === 'think') await say(['Let ', 'me ', 'see. ', '<b>2</b>'], 'reasoning_content');
  if (question === 'long') await say(Array(2000).fill('on and on '), 'content');
  else if (question === 'break') {
    await say(['half ', 'an '], 'content');
    return reply.destroy();
  } else if (question === 'attack') await say(ATTACK.match(/[\s\S]{1,7}/g), 'content');
  else if (question === 'markdown') await say(MARKDOWN.match(/[\s\S]{1,11}/g), 'content');
  else await say([`Answer ${asked.length} to `, `**${question}**.`], 'content');
  delta({}, 'stop');
  event({ choices: [], usage: { prompt_tokens: 9, completion_tokens: count, total_tokens: 9 + count } });
  reply.end('data: [DONE]\n\n');
});

const MARKDOWN = `# Title

A paragraph with *italic*, **bold**, ~~struck~~ and \`code <b>\`, snake_case_name, 2 * 3 * 4, and [a link](https://example.com/a_(b)).

1. first
2. second
   - inner
   - [x] done
3. third

> quoted

| left | right |
|:-----|------:|
| a \\| b | 12 |

\`\`\`rust
fn main() { println!("<&>"); }
\`\`\`
https://example.org/x, and the end.`;

// --- the browser ----------------------------------------------------------------------------------------------------------------

await new Promise((resolve) => standIn.listen(0, '127.0.0.1', resolve));
const here = `http://127.0.0.1:${standIn.address().port}/`;
const browser = await chromium.launch({ executablePath: flag('--browser', '/usr/bin/chromium'), args: ['--no-sandbox'] });
const complaints = [];

async function open(url, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => { if (/Content Security Policy/.test(message.text())) complaints.push(message.text()); });
  page.on('request', (request) => { if (!request.url().startsWith(new URL(url).origin) && !/^(data|blob):/.test(request.url())) complaints.push(`asked elsewhere: ${request.url()}`); });
  await page.goto(url);
  await page.waitForFunction(() => document.querySelector('#model').value !== '' && document.querySelector('#model').value !== '…');
  return page;
}

async function ask(page, question) {
  await page.fill('#ask', question);
  await page.keyboard.press('Enter');
}

const idle = (page) => page.waitForSelector('#send[aria-label="Send"]');
const answer = (page) => page.locator('.turn.assistant').last();
const shot = async (page, name) => { if (shots) await page.screenshot({ path: path.join(shots, `${name}.png`) }); };
const done = (what) => console.log(`ok  ${what}`);

try {
  const page = await open(here);
  const reply = await fetch(`${real}/`);
  const policy = reply.headers.get('content-security-policy') || '';
  assert.ok(/default-src 'none'/.test(policy) && /script-src 'self'/.test(policy) && !/unsafe/.test(policy), `policy: ${policy}`);
  await shot(page, 'empty');
  done('the page loads under its policy, from its own server only');

  await ask(page, 'hello');
  await idle(page);
  assert.match(await answer(page).innerText(), /Answer 1 to hello\./);
  assert.equal(await answer(page).locator('.prose strong').innerText(), 'hello');
  assert.match(await answer(page).locator('.stats').innerText(), /2 tokens.*tokens\/s.*first after [\d.]+ s/s);
  assert.equal(asked[0].body.stream, true);
  assert.equal(asked[0].body.temperature, undefined);
  done('an answer streams, with its numbers below it');

  await ask(page, 'think');
  await idle(page);
  const thought = answer(page).locator('details.thought');
  assert.equal(await thought.getAttribute('open'), null);
  assert.match(await thought.locator('summary').innerText(), /^Thought for/);
  assert.equal(await thought.locator('.inner').isVisible(), false);
  await thought.locator('summary').click();
  assert.equal(await thought.locator('.inner').innerText(), 'Let me see. <b>2</b>');
  assert.deepEqual(asked.at(-1).body.messages.map((m) => m.role), ['user', 'assistant', 'user']);
  done('thinking is folded away and can be read');

  await ask(page, 'long');
  await page.waitForFunction(() => document.querySelector('.turn.assistant:last-child .prose')?.textContent.length > 100);
  const before = ended;
  await page.click('#send[aria-label="Stop"]');
  await idle(page);
  const length = (await answer(page).locator('.prose').innerText()).length;
  await pause(200);
  assert.ok(length > 100 && length < 15_000);
  assert.equal((await answer(page).locator('.prose').innerText()).length, length);
  assert.match(await answer(page).locator('.stats').innerText(), /stopped/);
  assert.equal(ended, before + 1, 'the server still works for an answer that was stopped');
  done('stop ends the answer, here and at the server');

  await answer(page).getByLabel('Answer again').click();
  await page.waitForFunction(() => document.querySelector('.turn.assistant:last-child .prose')?.textContent.length > 20);
  await page.keyboard.press('Escape');
  await idle(page);
  assert.match(await answer(page).locator('.branch').innerText(), /2 \/ 2/);
  assert.equal(asked.at(-1).body.messages.at(-1).content, 'long');
  await answer(page).getByLabel('Previous version').click();
  assert.match(await answer(page).locator('.branch').innerText(), /1 \/ 2/);
  done('a second answer is a branch; Escape stops');

  const first = page.locator('.turn.user').first();
  await first.hover();
  await first.getByLabel('Edit').click();
  await page.locator('.edit textarea').fill('hello again');
  await page.keyboard.press('Enter');
  await idle(page);
  assert.equal(await page.locator('.turn').count(), 2);
  assert.match(await answer(page).innerText(), /hello again/);
  await page.locator('.turn.user').first().getByLabel('Previous version').click();
  assert.equal(await page.locator('.turn').count(), 6);
  done('an edited question is a branch, and the old one is still there');

  await page.click('#new');
  await ask(page, 'attack');
  await idle(page);
  await pause(100);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await answer(page).locator('.prose img, .prose script, .prose b, .prose i, .prose [onclick]').count(), 0);
  assert.match(await answer(page).innerText(), /<img src=x onerror="window\.hacked = 1">/);
  for (const link of await answer(page).locator('.prose a').all()) assert.match(await link.getAttribute('href'), /^https?:/);
  done('what a model writes stays text');

  await ask(page, 'markdown');
  await idle(page);
  const prose = answer(page).locator('.prose');
  const has = async (selector, text) => assert.equal((await prose.locator(selector).first().innerText()).trim(), text, selector);
  await has('.level1', 'Title');
  await has('em', 'italic');
  await has('s', 'struck');
  await has('p code', 'code <b>');
  await has('ol > li', 'first');
  await has('ol ul li', 'inner');
  await has('blockquote', 'quoted');
  await has('td', 'a | b');
  await has('td.right', '12');
  await has('pre', 'fn main() { println!("<&>"); }');
  assert.equal(await prose.locator('em').count(), 1, 'snake_case and products are not italic');
  const links = await prose.locator('a').evaluateAll((all) => all.map((a) => [a.getAttribute('href'), a.rel]));
  assert.deepEqual(links, [['https://example.com/a_(b)', 'noopener noreferrer'], ['https://example.org/x', 'noopener noreferrer']]);
  assert.equal(await prose.locator('input[type=checkbox]').isChecked(), true);
  await prose.locator('.copy').click();
  await page.waitForSelector('.copy:has-text("Copied")');
  await shot(page, 'markdown');
  done('Markdown is set, code can be copied');

  await ask(page, 'break');
  await page.waitForSelector('.failure');
  assert.match(await answer(page).innerText(), /half an[\s\S]*broke off/);
  await ask(page, 'locked');
  await page.waitForSelector('.failure:has-text("API key")');
  await shot(page, 'key');
  await page.click('.failure button:has-text("Enter a key")');
  await page.waitForSelector('#settings[open]');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'key');
  await page.fill('#key', 'sk-secret');
  await page.fill('#temperature', '0.5');
  await page.fill('#system', 'Be brief.');
  await page.selectOption('#thinking', 'off');
  await shot(page, 'settings');
  await page.click('#settings .done');
  await page.click('.failure button:has-text("Try again")');
  await idle(page);
  const request = asked.at(-1);
  assert.equal(request.authorization, 'Bearer sk-secret');
  assert.equal(request.body.temperature, 0.5);
  assert.deepEqual(request.body.messages[0], { role: 'system', content: 'Be brief.' });
  assert.deepEqual(request.body.chat_template_kwargs, { enable_thinking: false });
  const kept = await page.evaluate(() => [JSON.stringify(localStorage), JSON.stringify(sessionStorage)]);
  assert.ok(!kept[0].includes('sk-secret') && kept[1].includes('sk-secret'));
  done('refused without a key: the field for it, the same question again; the key is never in localStorage');

  await ask(page, 'crowded');
  await page.waitForSelector('.failure:has-text("Trying again in 1 s")');
  await page.waitForFunction(() => /crowded/.test(document.querySelector('.turn.assistant:last-child .prose')?.textContent), null, { timeout: 5000 });
  await idle(page);
  done('a crowded server is asked again after its Retry-After');

  await page.selectOption('#model', 'polite');
  await ask(page, 'adapter');
  await idle(page);
  assert.equal(asked.at(-1).body.model, 'polite');
  assert.equal(await page.isVisible('#picture'), false);
  await page.selectOption('#model', 'base');
  const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
  await page.setInputFiles('#picture-file', { name: 'dot.png', mimeType: 'image/png', buffer: Buffer.from(png, 'base64') });
  await page.waitForSelector('#pictures img');
  await ask(page, 'picture');
  await idle(page);
  const parts = asked.at(-1).body.messages.at(-1).content;
  assert.deepEqual([parts[0].type, parts[1]], ['image_url', { type: 'text', text: 'picture' }]);
  assert.ok(parts[0].image_url.url.startsWith('data:image/png;base64,'));
  done('adapters and pictures');

  const turns = await page.locator('.turn').count();
  await page.reload();
  await page.waitForSelector('.turn');
  assert.equal(await page.locator('.turn').count(), turns);
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#export')]);
  const file = await download.path();
  const exported = JSON.parse(fs.readFileSync(file, 'utf8'));
  assert.equal(exported.conversations.length, 2);
  assert.ok(!JSON.stringify(exported).includes('sk-secret'));
  await page.setInputFiles('#import-file', file);
  await page.waitForFunction(() => document.querySelectorAll('.conversations .entry').length === 4);
  let alerted = '';
  page.once('dialog', (dialog) => { alerted = dialog.message(); dialog.accept(); });
  await page.setInputFiles('#import-file', { name: 'x.json', mimeType: 'application/json', buffer: Buffer.from('{"format":"llm-serve chat","conversations":[{"nodes":[{"role":"king"}]}]}') });
  await page.waitForTimeout(200);
  assert.match(alerted, /damaged/);
  done('conversations survive a reload, an export and an import; a damaged file is refused');

  const phone = await open(here, { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, colorScheme: 'dark' });
  assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth), 390);
  assert.equal(await phone.isVisible('#side'), false);
  await phone.tap('#side-open');
  assert.equal(await phone.isVisible('#side'), true);
  await phone.tap('#side-close');
  await phone.fill('#ask', 'markdown');
  await phone.tap('#send');
  await idle(phone);
  assert.equal(await phone.evaluate(() => document.documentElement.scrollWidth), 390);
  await shot(phone, 'phone');
  const unnamed = await phone.evaluate(() => [...document.querySelectorAll('button, input:not([hidden]), select, textarea')]
    .filter((e) => !e.hidden && !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.closest('li.task')))
    .map((e) => e.outerHTML));
  assert.deepEqual(unnamed, []);
  done('a phone: nothing sticks out, every control has a name');

  const served = await open(`${real}/chat`);
  await served.click('#tune');
  await served.fill('#max_tokens', '8');
  await served.click('#settings .done');
  await ask(served, 'What is 2 + 3?');
  await idle(served);
  assert.match(await answer(served).locator('.stats').innerText(), /\d+ tokens?/);
  await shot(served, 'served');
  done('the server itself answers');

  assert.deepEqual(complaints, []);
  assert.ok(begun >= ended);
  console.log('all well');
} finally {
  await browser.close();
  standIn.close();
  standIn.closeAllConnections();
}
