// What the browser keeps: conversations and settings in localStorage, the API key in sessionStorage, and nothing anywhere else.

import { check, create } from './tree.js';

const CHATS = 'llm-serve.conversations';
const SETTINGS = 'llm-serve.settings';
const KEY = 'llm-serve.key';
// A picture larger than this stays in the page but is not stored: browsers give a site about five million characters.
const LARGEST_PICTURE = 300_000;

export const FIELDS = ['system', 'temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'seed', 'thinking'];

export const store = { conversations: [], current: null, settings: {} };

function read(key) {
  try {
    return JSON.parse(localStorage.getItem(key) || 'null');
  } catch {
    return null;
  }
}

export function load() {
  for (const value of (read(CHATS) || {}).list || []) {
    try {
      store.conversations.push(check(value));
    } catch {
      // A damaged one is left out; the others are still good.
    }
  }
  const settings = read(SETTINGS) || {};
  for (const name of [...FIELDS, 'model', 'theme']) if (typeof settings[name] === 'string') store.settings[name] = settings[name];
  const current = (read(CHATS) || {}).current;
  store.current = store.conversations.find((c) => c.id === current) || create();
}

let later = 0;

// Soon, not at once: while an answer grows, many calls are one write.
export function save(now = false) {
  clearTimeout(later);
  if (now) write();
  else later = setTimeout(write, 400);
}

function write() {
  const kept = (most) => JSON.stringify({
    current: store.current.id,
    list: store.conversations.map((c) => ({ ...c, nodes: c.nodes.map((n) => ({ ...n, images: n.images.filter((url) => url.length < most) })) })),
  });
  for (const most of [LARGEST_PICTURE, 0]) {
    try {
      localStorage.setItem(CHATS, kept(most));
      localStorage.setItem(SETTINGS, JSON.stringify(store.settings));
      return;
    } catch {
      // Full, or not allowed here: without pictures it may fit; else the page works until it is closed.
    }
  }
}

// A conversation is listed from its first message on.
export function touch(conversation) {
  store.conversations = [conversation, ...store.conversations.filter((c) => c !== conversation)];
}

export function forget(conversation) {
  store.conversations = store.conversations.filter((c) => c !== conversation);
  if (store.current === conversation) store.current = create();
}

export function key() {
  try {
    return sessionStorage.getItem(KEY) || '';
  } catch {
    return '';
  }
}

export function setKey(value) {
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Without storage the key would have to be typed for each question; nothing to be done here.
  }
}

// The sampling fields that are set, as the API wants them.
export function sampling() {
  const body = {};
  for (const name of ['temperature', 'top_p', 'top_k', 'min_p', 'max_tokens', 'seed']) {
    const text = store.settings[name];
    if (text !== undefined && text !== '' && Number.isFinite(Number(text))) body[name] = Number(text);
  }
  if (store.settings.thinking) body.chat_template_kwargs = { enable_thinking: store.settings.thinking === 'on' };
  return body;
}
