// Markdown to elements. Text only ever becomes text nodes: there is no place where markup could come from what a model writes, so
// `<img onerror=...>` is shown as the characters it is. Images become links, because the page loads nothing from elsewhere.
//
// What models write: headings, paragraphs, lists (nested, numbered, with boxes), quotes, fenced code, tables, rules; inline code,
// bold, italic, struck through, links. Blocks are found first, so that while an answer grows only its last block is made anew.

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^\s`]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// Runs of lines that belong together. Each is { kind, lines }.
export function blocks(text) {
  const lines = text.replace(/\r\n?/g, '\n').split('\n');
  const found = [];
  let at = 0;
  const take = (kind, more) => {
    const from = at++;
    while (at < lines.length && more(lines[at], at)) at++;
    found.push({ kind, lines: lines.slice(from, at) });
  };
  while (at < lines.length) {
    const line = lines[at];
    const fence = line.match(FENCE);
    if (!line.trim()) {
      at++;
    } else if (fence) {
      let open = true;
      take('code', (next) => {
        if (!open) return false;
        const close = next.trim();
        if (close.length >= fence[2].length && close === fence[2][0].repeat(close.length)) open = false;
        return true;
      });
    } else if (HEADING.test(line)) {
      take('heading', () => false);
    } else if (RULE.test(line)) {
      take('rule', () => false);
    } else if (QUOTE.test(line)) {
      take('quote', (next) => next.trim() !== '' && (QUOTE.test(next) || !starts(next)));
    } else if (ITEM.test(line)) {
      // An empty line stays inside if the list goes on behind it.
      take('list', (next, i) => {
        if (next.trim() === '') return i + 1 < lines.length && (ITEM.test(lines[i + 1]) || /^\s{2,}\S/.test(lines[i + 1]));
        return ITEM.test(next) || /^\s{2,}/.test(next) || (lines[i - 1].trim() !== '' && !starts(next));
      });
    } else if (line.includes('|') && at + 1 < lines.length && DIVIDER.test(lines[at + 1]) && lines[at + 1].includes('-')) {
      take('table', (next) => next.trim() !== '' && next.includes('|'));
    } else {
      take('paragraph', (next, i) => next.trim() !== '' && !starts(next) && !(next.includes('|') && DIVIDER.test(lines[i + 1] || '') && (lines[i + 1] || '').includes('|')));
    }
  }
  return found;
}

function starts(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}

export function render(block) {
  const { kind, lines } = block;
  if (kind === 'code') return code(lines);
  if (kind === 'heading') {
    const [, marks, text] = lines[0].match(HEADING);
    // The page has the first two levels.
    return element(`h${Math.min(marks.length + 2, 6)}`, `level${marks.length}`, inline(text));
  }
  if (kind === 'rule') return element('hr');
  if (kind === 'quote') return element('blockquote', '', ...renderAll(lines.map((line) => line.replace(QUOTE, '')).join('\n')));
  if (kind === 'list') return list(lines);
  if (kind === 'table') return table(lines);
  return element('p', '', inline(lines.map((line) => line.trim()).join('\n')));
}

export function renderAll(text) {
  return blocks(text).map(render);
}

// Bring `target` to show `text`; blocks that did not change are left as they are, with selections in them.
export function update(target, text) {
  const wanted = blocks(text);
  const old = target.rendered || [];
  let same = 0;
  while (same < wanted.length && same < old.length && old[same] === wanted[same].kind + wanted[same].lines.join('\n')) same++;
  while (target.childNodes.length > same) target.lastChild.remove();
  target.append(...wanted.slice(same).map(render));
  target.rendered = wanted.map((block) => block.kind + block.lines.join('\n'));
}

function code(lines) {
  const [, indent, , language] = lines[0].match(FENCE);
  const last = lines[lines.length - 1];
  const closed = lines.length > 1 && /^ {0,3}(`{3,}|~{3,})\s*$/.test(last);
  const body = lines.slice(1, closed ? -1 : undefined).map((line) => (line.startsWith(indent) ? line.slice(indent.length) : line)).join('\n');
  const copy = element('button', 'copy', 'Copy');
  copy.type = 'button';
  copy.dataset.copy = 'code';
  const pre = element('pre', '', element('code', '', body));
  pre.tabIndex = 0;
  return element('figure', 'code', element('figcaption', '', element('span', '', language || 'text'), copy), pre);
}

function list(lines) {
  const [, indent, marker] = lines[0].match(ITEM);
  const numbered = /\d/.test(marker);
  const node = element(numbered ? 'ol' : 'ul');
  if (numbered && parseInt(marker, 10) !== 1) node.start = parseInt(marker, 10);
  let item = null;
  const flush = () => {
    if (!item) return;
    const li = element('li');
    const box = item[0].match(/^\[([ xX])\]\s+(.*)$/);
    if (box) {
      const input = element('input');
      input.type = 'checkbox';
      input.disabled = true;
      input.checked = box[1] !== ' ';
      item[0] = box[2];
      li.className = 'task';
      li.append(input, ' ');
    }
    const inner = blocks(item.join('\n'));
    // A plain item is text, not a paragraph.
    if (inner.length && inner[0].kind === 'paragraph') {
      li.append(inline(inner.shift().lines.map((line) => line.trim()).join('\n')));
    }
    li.append(...inner.map(render));
    node.append(li);
  };
  for (const line of lines) {
    const match = line.match(ITEM);
    if (match && match[1].length <= indent.length + 1) {
      flush();
      item = [match[3]];
    } else {
      // Two to four columns deeper belongs to the item.
      item.push(line.replace(new RegExp(`^\\s{0,${Math.max(indent.length + marker.length + 1, 2)}}`), ''));
    }
  }
  flush();
  return node;
}

function cells(line) {
  const parts = line.trim().replace(/^\|/, '').replace(/\|$/, '').split(/(?<!\\)\|/);
  return parts.map((part) => part.trim().replace(/\\\|/g, '|'));
}

function table(lines) {
  const align = cells(lines[1]).map((rule) => (/^:.*:$/.test(rule) ? 'center' : /:$/.test(rule) ? 'right' : ''));
  const row = (line, name) => {
    const parts = cells(line).slice(0, align.length);
    while (parts.length < align.length) parts.push('');
    return element('tr', '', ...parts.map((part, i) => element(name, align[i] || '', inline(part))));
  };
  const head = element('thead', '', row(lines[0], 'th'));
  const body = element('tbody', '', ...lines.slice(2).map((line) => row(line, 'td')));
  const frame = element('div', 'table', element('table', '', head, body));
  frame.tabIndex = 0;
  return frame;
}

// In order of strength: code, links, emphasis. Each alternative of the expression is one kind.
const INLINE = new RegExp(
  [
    String.raw`(?<!\x60)(?<ticks>\x60+)(?!\x60)(?<code>[\s\S]*?[^\x60])\k<ticks>(?!\x60)`,
    String.raw`!?\[(?<label>[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*)\]\((?<href>[^\s()]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+"[^"]*")?\)`,
    String.raw`<(?<auto>(?:https?:\/\/|mailto:)[^\s<>]+)>`,
    String.raw`(?<bare>\bhttps?:\/\/[^\s<>"'\x60*]*[^\s<>"'\x60*.,;:!?)\]])`,
    String.raw`\*\*(?<strong>(?=\S)[\s\S]+?\S|\S)\*\*(?!\*)`,
    String.raw`(?<![\p{L}\p{N}_])__(?<strong2>(?=\S).+?)__(?![\p{L}\p{N}_])`,
    String.raw`(?<!\p{N})\*(?<em>(?=[^\s*])(?:[^*]|\*\*[^*]+\*\*)*?[^\s*]|[^\s*])\*(?!\*)`,
    String.raw`(?<![\p{L}\p{N}_])_(?<em2>(?=\S)[^_]+?)_(?![\p{L}\p{N}_])`,
    String.raw`~~(?<struck>(?=\S).+?)~~`,
    String.raw`\\(?<escaped>[!-\/:-@\[-\x60{-~])`,
    String.raw`(?<line> {2,}\n|\n)`,
  ].join('|'),
  'gu',
);

function inline(text, depth = 0) {
  const fragment = document.createDocumentFragment();
  if (depth > 8) {
    fragment.append(text);
    return fragment;
  }
  let from = 0;
  for (const match of text.matchAll(INLINE)) {
    const g = match.groups;
    fragment.append(text.slice(from, match.index));
    from = match.index + match[0].length;
    const nest = (value) => inline(value, depth + 1);
    if (g.code !== undefined) fragment.append(element('code', '', g.code.replace(/^ (.*\S.*) $/, '$1')));
    else if (g.label !== undefined) fragment.append(link(g.href, nest(g.label || g.href), match[0]));
    else if (g.auto !== undefined) fragment.append(link(g.auto, g.auto, match[0]));
    else if (g.bare !== undefined) fragment.append(link(g.bare, g.bare, match[0]));
    else if (g.strong !== undefined) fragment.append(element('strong', '', nest(g.strong)));
    else if (g.strong2 !== undefined) fragment.append(element('strong', '', nest(g.strong2)));
    else if (g.em !== undefined) fragment.append(element('em', '', nest(g.em)));
    else if (g.em2 !== undefined) fragment.append(element('em', '', nest(g.em2)));
    else if (g.struck !== undefined) fragment.append(element('s', '', nest(g.struck)));
    else if (g.escaped !== undefined) fragment.append(g.escaped);
    else fragment.append(element('br'));
  }
  fragment.append(text.slice(from));
  return fragment;
}

// Anything but the web and mail is shown as it was written.
function link(href, content, source) {
  if (!/^(https?:\/\/|mailto:)/i.test(href)) return source;
  const a = element('a', '', content);
  a.href = href;
  a.target = '_blank';
  a.rel = 'noopener noreferrer';
  return a;
}
