// Conversations: trees of messages, because an edited question and a second answer are branches. Plain data, no page.
//
// A conversation is { id, title, created, updated, nodes, leaf }; a node is
// { id, parent, role, content, reasoning, images, stats }. Nodes stand in the order they were made; what the page shows is the path
// from `leaf` up. Whatever is read from a file or from storage goes through `check`, field by field.

export const FORMAT = 'llm-serve chat';

export function newId() {
  // crypto.randomUUID exists on https and localhost only; this need not be secret.
  return Date.now().toString(36) + Math.random().toString(36).slice(2, 10);
}

export function create() {
  const now = Date.now();
  return { id: newId(), title: '', created: now, updated: now, nodes: [], leaf: null };
}

export function find(conversation, id) {
  return conversation.nodes.find((node) => node.id === id) || null;
}

export function add(conversation, parent, role, content, images = []) {
  const node = { id: newId(), parent, role, content, reasoning: '', images, stats: null };
  conversation.nodes.push(node);
  conversation.leaf = node.id;
  conversation.updated = Date.now();
  if (!conversation.title && role === 'user') conversation.title = title(content);
  return node;
}

function title(content) {
  const line = content.trim().replace(/\s+/g, ' ');
  if (!line) return 'A picture';
  return line.length <= 60 ? line : line.slice(0, 57).replace(/\s\S*$/, '') + '…';
}

// The nodes from the first message to the leaf.
export function path(conversation) {
  const nodes = [];
  const seen = new Set();
  for (let node = find(conversation, conversation.leaf); node && !seen.has(node.id); node = find(conversation, node.parent)) {
    seen.add(node.id);
    nodes.unshift(node);
  }
  return nodes;
}

// Branches at the place of a node, itself among them.
export function siblings(conversation, node) {
  return conversation.nodes.filter((other) => other.parent === node.parent);
}

// Show the branch of a node, down to its newest end.
export function select(conversation, node) {
  let leaf = node;
  for (;;) {
    const children = conversation.nodes.filter((other) => other.parent === leaf.id);
    if (!children.length) break;
    leaf = children[children.length - 1];
  }
  conversation.leaf = leaf.id;
}

export function remove(conversation, node) {
  conversation.nodes = conversation.nodes.filter((other) => other !== node);
  if (conversation.leaf === node.id) conversation.leaf = node.parent;
}

// What the server is asked: the path up to and with `last`. Thinking is not sent back; two questions in a row, which an answer
// that failed leaves behind, become one, because many chat templates insist on turns.
export function messages(nodes, system) {
  const list = [];
  if (system.trim()) list.push({ role: 'system', content: system });
  for (const node of nodes) {
    const before = list[list.length - 1];
    if (node.role === 'assistant' && !node.content) continue;
    if (before && before.role === node.role && typeof before.content === 'string' && !node.images.length) {
      before.content += '\n\n' + node.content;
      continue;
    }
    const images = node.images.map((url) => ({ type: 'image_url', image_url: { url } }));
    const content = images.length ? [...images, { type: 'text', text: node.content }] : node.content;
    list.push({ role: node.role, content });
  }
  return list;
}

export function exported(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

// Conversations of a file, or an error that says what is wrong with it. They get new names, so nothing is replaced.
export function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error('This file is not JSON.');
  }
  if (!file || file.format !== FORMAT || !Array.isArray(file.conversations)) throw new Error('This file does not hold conversations of this page.');
  return file.conversations.map((value) => ({ ...check(value), id: newId() }));
}

// A conversation out of unknown data: known fields of the right type, everything else dropped.
export function check(value) {
  const bad = () => new Error('A conversation in it is damaged.');
  const text = (v, most = 4e6) => {
    if (typeof v !== 'string' || v.length > most) throw bad();
    return v;
  };
  const number = (v) => (Number.isFinite(v) ? v : null);
  if (!value || !Array.isArray(value.nodes) || value.nodes.length > 1e5) throw bad();
  const ids = new Set();
  const nodes = value.nodes.map((node) => {
    if (!node || !['user', 'assistant'].includes(node.role)) throw bad();
    const parent = node.parent === null ? null : text(node.parent, 64);
    // A parent stands before its children, so there are no circles.
    if (parent !== null && !ids.has(parent)) throw bad();
    const id = text(node.id, 64);
    if (ids.has(id)) throw bad();
    ids.add(id);
    const images = (Array.isArray(node.images) ? node.images : []).filter((url) => /^data:image\/(png|jpeg|webp);base64,[A-Za-z0-9+/=]+$/.test(url));
    const s = node.stats;
    const stats = s && typeof s === 'object' ? { first: number(s.first), seconds: number(s.seconds), thinking: number(s.thinking), tokens: number(s.tokens), finish: typeof s.finish === 'string' ? s.finish.slice(0, 40) : null, model: typeof s.model === 'string' ? s.model.slice(0, 200) : null } : null;
    return { id, parent, role: node.role, content: text(node.content), reasoning: text(node.reasoning || ''), images, stats };
  });
  const leaf = value.leaf === null || ids.has(value.leaf) ? value.leaf : null;
  return { id: text(value.id, 64), title: text(value.title || '', 400), created: number(value.created) || Date.now(), updated: number(value.updated) || Date.now(), nodes, leaf };
}
