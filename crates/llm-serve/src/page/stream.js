// Talking to the server: the list of models, and answers that come as server-sent events over fetch.

export class ServerError extends Error {
  // status 0: no reply at all. `wait`: seconds of Retry-After, or null.
  constructor(status, message, code = null, wait = null) {
    super(message);
    Object.assign(this, { status, code, wait });
  }
}

function headers(key) {
  const all = { 'Content-Type': 'application/json' };
  if (key) all.Authorization = `Bearer ${key}`;
  return all;
}

async function call(path, options) {
  let reply;
  try {
    reply = await fetch(path, { credentials: 'same-origin', cache: 'no-store', ...options });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ServerError(0, 'The server does not answer.');
  }
  if (reply.ok) return reply;
  const text = await reply.text().catch(() => '');
  let body = {};
  try {
    body = JSON.parse(text).error || {};
  } catch {
    // A proxy's page: its status says enough.
  }
  const wait = Number.parseInt(reply.headers.get('Retry-After') || '', 10);
  const message = typeof body.message === 'string' ? body.message : `The server says ${reply.status}.`;
  throw new ServerError(reply.status, message, body.code || body.type || null, Number.isFinite(wait) ? Math.max(wait, 0) : null);
}

export async function models(key) {
  const reply = await call('/v1/models', { headers: headers(key) });
  const list = (await reply.json()).data;
  if (!Array.isArray(list)) throw new ServerError(reply.status, 'The server has no list of models.');
  return list.filter((card) => card && typeof card.id === 'string').map((card) => ({
    id: card.id,
    parent: typeof card.parent === 'string' ? card.parent : typeof card.root === 'string' && card.root !== card.id && card.root !== card.path ? card.root : null,
    context: Number.isFinite(card.max_model_len) ? card.max_model_len : null,
    sees: Array.isArray(card.input_modalities) && card.input_modalities.includes('image'),
  }));
}

// Split a stream of bytes into the data of its events.
export async function* events(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      rest += done ? decoder.decode() + '\n' : decoder.decode(value, { stream: true });
      const lines = rest.split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith('data:')) data.push(line.slice(line[5] === ' ' ? 6 : 5));
        else if (line === '' && data.length) {
          yield data.join('\n');
          data = [];
        }
      }
      if (done) return;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

// Ask; `onDelta({ content, reasoning })` gets the answer as it comes. Resolves to { finish, usage } at [DONE].
export async function chat({ key, body, signal, onDelta }) {
  const request = { ...body, stream: true, stream_options: { include_usage: true } };
  const reply = await call('/v1/chat/completions', { method: 'POST', headers: headers(key), body: JSON.stringify(request), signal });
  let finish = null;
  let usage = null;
  try {
    for await (const data of events(reply.body)) {
      if (data === '[DONE]') return { finish, usage };
      const event = JSON.parse(data);
      if (event.error) throw new ServerError(200, event.error.message || 'The answer broke off.', event.error.code || null);
      if (event.usage) usage = event.usage;
      const choice = event.choices && event.choices[0];
      if (!choice) continue;
      const delta = choice.delta || {};
      if (delta.content || delta.reasoning_content) onDelta({ content: delta.content || '', reasoning: delta.reasoning_content || '' });
      if (choice.finish_reason) finish = choice.finish_reason;
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === 'AbortError') throw error;
    throw new ServerError(200, error instanceof SyntaxError ? 'The server sent something that is not an answer.' : 'The connection broke off in the middle of the answer.');
  }
  throw new ServerError(200, 'The server ended the answer early.');
}
