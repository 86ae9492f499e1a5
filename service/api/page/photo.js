/* The life of one photo: waiting → uploading (held) → queued → running → fetching → done, failed or cancelled. */

import { Problem, namedIn } from './api.js';
import { follow } from './events.js';
import { Slots, pause } from './slots.js';

const LONGEST_S = 30;
const uploads = new Slots(3);
const ENDED = new Set(['done', 'failed', 'cancelled']);

/** One photo, from the file to its result. Says `change` whenever it has changed. */
export class Photo extends EventTarget {
  #api;
  #stop = new AbortController();
  #began = 0;
  #endsAt = null;
  #resumesAt = 0;
  #shown = 0;

  constructor(api, file) {
    super();
    this.#api = api;
    this.file = file;
    this.name = file.name || 'pasted image';
    this.#reset({});
  }

  #reset(options) {
    this.options = options;
    this.state = 'waiting';
    this.sent = 0;
    this.position = null;
    this.tilesDone = 0;
    this.tilesTotal = 0;
    this.problem = null;
    this.result = null;
    this.#endsAt = null;
    this.#shown = 0;
  }

  get ended() {
    return ENDED.has(this.state);
  }

  /** Seconds to the end, as far as the service knows; 0 where it does not. */
  get left() {
    return this.#endsAt === null ? 0 : Math.max(0.5, (this.#endsAt - performance.now()) / 1000);
  }

  get resumesIn() {
    return Math.max(0, (this.#resumesAt - performance.now()) / 1000);
  }

  /** How much of the work at hand is done, 0…1; null while that is not known. It never goes back. */
  get fraction() {
    if (this.state === 'uploading') return this.sent < 1 ? this.sent : null;
    if (this.state !== 'running') return null;
    const spent = (performance.now() - this.#began) / 1000;
    const byTime = this.#endsAt === null ? 0 : spent / (spent + this.left);
    const byTiles = this.tilesTotal ? this.tilesDone / (this.tilesTotal + 1) : 0;
    this.#shown = Math.max(this.#shown, Math.min(0.98, this.#endsAt === null ? byTiles : byTime));
    return this.#shown;
  }

  /** Begin, or begin again: with these options, as a job of its own. */
  async start(options) {
    this.#reset(options);
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    this.#becomes('waiting');
    try {
      const id = await uploads.run(signal, () => this.#upload(signal));
      await this.#watch(id, signal);
      await this.#fetch(id, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) reportError(error);
      const problem = error instanceof Problem ? error : new Problem(0, { title: 'The page failed', detail: `${error}` });
      this.#becomes('failed', { problem });
    }
  }

  /** Stop whatever goes on, here and at the service. */
  cancel() {
    if (this.ended) return;
    this.#becomes('cancelled');
    this.#stop.abort();
  }

  #becomes(state, more = {}) {
    Object.assign(this, { state, ...more });
    this.dispatchEvent(new Event('change'));
  }

  /* Until the service has taken the photo. One key for all tries: a lost answer makes no second job. */
  async #upload(signal) {
    const key = randomName();
    const sent = (fraction) => signal.aborted || this.#becomes('uploading', { sent: fraction });
    for (let tries = 0; ; tries += 1) {
      this.#becomes('uploading', { sent: 0 });
      await readable(this.file);
      try {
        const job = await this.#api.upload(this.file, this.options, key, { signal, sent });
        if (signal.aborted) this.#drop(job.id);
        else this.#tell(job);
        return job.id;
      } catch (problem) {
        if (signal.aborted || !problem.passing) throw problem;
        await this.#hold(problem, problem.retryAfter ?? Math.min(2 ** tries, LONGEST_S), signal);
      }
    }
  }

  async #hold(problem, seconds, signal) {
    this.#resumesAt = performance.now() + 1000 * seconds;
    this.#becomes('held', { problem });
    await pause(seconds, signal);
    this.problem = null;
  }

  async #watch(id, signal) {
    signal.throwIfAborted();
    signal.addEventListener('abort', () => this.#drop(id), { once: true });
    const end = await follow(this.#api, id, signal, (job) => this.#tell(job));
    if (end.state === 'failed') throw new Problem(end.error?.status ?? 500, end.error ?? undefined);
    if (end.state === 'cancelled') throw new Problem(409, { title: 'Cancelled at the service' });
  }

  #drop(id) {
    this.#api.fetch(`v1/jobs/${encodeURIComponent(id)}`, { method: 'DELETE' }).catch(() => {}); // it may have ended
  }

  #tell(job) {
    this.#endsAt = job.eta_s === null ? null : performance.now() + 1000 * job.eta_s;
    if (job.state === 'running' && this.state !== 'running') this.#began = performance.now();
    const { position, tiles_done: tilesDone, tiles_total: tilesTotal } = job;
    this.#becomes(job.state === 'queued' ? 'queued' : 'running', { position, tilesDone, tilesTotal });
  }

  async #fetch(id, signal) {
    this.#becomes('fetching');
    for (let tries = 0; ; tries += 1) {
      try {
        const answer = await this.#api.fetch(`v1/jobs/${encodeURIComponent(id)}/result`, { signal });
        const name = namedIn(answer.headers.get('Content-Disposition'), this.name);
        this.#becomes('done', { result: { name, blob: await answer.blob() } });
        return;
      } catch (error) {
        signal.throwIfAborted();
        if (error instanceof Problem && !error.passing) throw error;
        await pause(error.retryAfter ?? Math.min(2 ** tries, LONGEST_S), signal);
      }
    }
  }
}

/* A folder, or a file that has gone since, would look like a lost connection. */
async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Problem(400, {
      title: 'The file cannot be read',
      detail: 'It is a folder, or it has been moved or changed since it was chosen.',
      advice: 'Choose the photo again.',
    });
  }
}

/* `crypto.randomUUID` is only there over HTTPS. */
function randomName() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
