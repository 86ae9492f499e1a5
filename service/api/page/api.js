/* What the page asks of the service. All addresses are relative: the page may be served below any path. */

const KEY = 'omgsr-api-key';
const BUSY = new Set([0, 429, 502, 503, 504]);

/** What went wrong, in the service's own words where it has said some (RFC 9457). */
export class Problem extends Error {
  constructor(status, said = {}, retryAfter = null) {
    super(said.detail ?? '');
    this.status = status;
    this.title = said.title ?? `The service answered ${status}`;
    this.detail = said.detail ?? '';
    this.advice = said.advice ?? '';
    this.retryAfter = retryAfter ?? said.retry_after_s ?? null;
  }

  /** Whether the same request is worth sending again later. */
  get passing() {
    return BUSY.has(this.status);
  }

  static unreachable() {
    return new Problem(0, {
      title: 'The service cannot be reached',
      detail: 'There was no answer.',
      advice: 'Check the connection.',
    });
  }

  static of(status, text, retryAfter) {
    let said;
    try {
      said = JSON.parse(text);
    } catch {
      said = {}; // a proxy's own answer
    }
    return new Problem(status, said, Number.parseInt(retryAfter, 10) || null);
  }
}

/** Requests with the API key, which is asked for when the service first wants one. */
export class Api {
  #ask;
  #asked = null;

  /** `ask(problem)` resolves to a key. */
  constructor(ask) {
    this.#ask = ask;
  }

  /** The answer, if it is a good one. Throws Problem. */
  async fetch(path, { method = 'GET', headers = {}, signal } = {}) {
    for (;;) {
      const key = sessionStorage.getItem(KEY);
      let answer;
      try {
        answer = await fetch(path, { method, headers: { ...headers, ...bearer(key) }, signal, cache: 'no-store' });
      } catch (error) {
        signal?.throwIfAborted();
        throw error instanceof TypeError ? Problem.unreachable() : error;
      }
      if (answer.ok) return answer;
      const problem = Problem.of(answer.status, await answer.text(), answer.headers.get('Retry-After'));
      if (answer.status !== 401) throw problem;
      await this.#newKey(key, problem);
      signal?.throwIfAborted();
    }
  }

  /** The answer's JSON. Throws Problem. */
  async json(path, init) {
    return (await this.fetch(path, init)).json();
  }

  /**
   * Send a photo; the job that makes it large. `sent(fraction)` is told how much is out. Throws Problem.
   * The same `key` never makes two jobs. A signal that comes once all is sent is left to the caller: there may be a job.
   */
  async upload(file, options, key, { signal, sent }) {
    for (;;) {
      signal.throwIfAborted();
      const secret = sessionStorage.getItem(KEY);
      const headers = { Prefer: 'respond-async', 'Idempotency-Key': key, ...bearer(secret) };
      const { status, text, retryAfter } = await send('v1/upscale', form(file, options), headers, { signal, sent });
      if (status === 202) return JSON.parse(text);
      const problem = Problem.of(status, text, retryAfter);
      if (status !== 401) throw problem;
      await this.#newKey(secret, problem);
    }
  }

  /** One question for all the requests that were refused with the same key. */
  async #newKey(refused, problem) {
    if (sessionStorage.getItem(KEY) !== refused) return;
    this.#asked ??= this.#ask(problem).then((key) => {
      sessionStorage.setItem(KEY, key);
      this.#asked = null;
    });
    await this.#asked;
  }
}

function bearer(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

function form(file, options) {
  const made = new FormData();
  for (const [name, value] of Object.entries(options)) made.append(name, value);
  made.append('image', file, file.name || 'photo');
  return made;
}

/* XMLHttpRequest, because fetch does not tell how much of a body is out. */
function send(path, body, headers, { signal, sent }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let out = false;
    const stop = () => {
      if (!out) request.abort();
    };
    request.open('POST', path);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => sent(total ? loaded / total : 0);
    request.upload.onload = () => {
      out = true;
      sent(1);
    };
    request.onload = () =>
      resolve({
        status: request.status,
        text: request.responseText,
        retryAfter: request.getResponseHeader('Retry-After'),
      });
    request.onerror = () => reject(Problem.unreachable());
    request.onabort = () => reject(signal.reason);
    request.onloadend = () => signal.removeEventListener('abort', stop);
    signal.addEventListener('abort', stop);
    request.send(body);
  });
}

/** The file name that a Content-Disposition tells. */
export function namedIn(disposition, otherwise) {
  const full = /filename\*=UTF-8''([^;]+)/i.exec(disposition ?? '');
  if (full) return decodeURIComponent(full[1]);
  return /filename="([^"]+)"/i.exec(disposition ?? '')?.[1] ?? otherwise;
}
