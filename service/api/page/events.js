/* Server-sent events by fetch: an EventSource cannot send an API key. */

import { Slots, pause } from './slots.js';

const FIRST_WORD_S = 5; // a proxy that holds a stream back shows by this
const SILENCE_S = 40; // the service says something every 15 s
const POLL_S = 1.5;
const LONGEST_S = 30;
const MOST_FAILURES = 3;

/* A browser opens six connections to a server, over all its tabs: some must be left for photos. */
const streams = new Slots(2);

const FINAL = new Set(['succeeded', 'failed', 'cancelled']);

/**
 * `tell` what happens to a job until it has ended: by a stream or, where there is none to be had, by asking.
 * The job's end. Throws Problem when the job is not there any more, and the signal's reason.
 */
export async function follow(api, id, signal, tell) {
  const path = `v1/jobs/${encodeURIComponent(id)}`;
  const stream = { path: `${path}/events`, last: '', failures: 0 };
  for (let away = 0; ; ) {
    const end = await streamed(api, stream, signal, tell);
    if (end) return end;
    try {
      const job = await api.json(path, { signal });
      if (FINAL.has(job.state)) return job;
      away = 0;
      tell(job);
    } catch (error) {
      signal.throwIfAborted();
      if (!error.passing) throw error;
      away += 1;
    }
    await pause(Math.min(POLL_S * 2 ** away, LONGEST_S), signal);
  }
}

/* The job's end, if the stream came so far. */
async function streamed(api, stream, signal, tell) {
  if (stream.failures >= MOST_FAILURES || !streams.tryTake()) return null;
  try {
    for await (const { id, data } of events(api, stream, signal)) {
      stream.last = id;
      stream.failures = 0;
      if (FINAL.has(data.state)) return data;
      tell(data);
    }
  } catch (error) {
    signal.throwIfAborted();
    if (error.passing === false) throw error;
    stream.failures += 1;
  } finally {
    streams.release();
  }
  return null;
}

async function* events(api, { path, last }, signal) {
  const quiet = new AbortController();
  let timer = setTimeout(() => quiet.abort(), FIRST_WORD_S * 1000);
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => quiet.abort(), SILENCE_S * 1000);
  };
  try {
    const answer = await api.fetch(path, {
      headers: last ? { 'Last-Event-ID': last } : {},
      signal: AbortSignal.any([signal, quiet.signal]),
    });
    if (answer.status === 200) yield* parsed(answer.body, heard); // 204: it has ended, and we have seen the end
  } finally {
    clearTimeout(timer);
    quiet.abort();
  }
}

/* The events of a text/event-stream: their ids, and their data as JSON. */
async function* parsed(body, heard) {
  let id = '';
  let data = '';
  for await (const line of lines(body, heard)) {
    const [, field, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (field === 'id') id = value;
    else if (field === 'data') data += value;
    else if (line === '' && data) {
      yield { id, data: JSON.parse(data) };
      data = '';
    }
  }
}

async function* lines(body, heard) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = '';
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    heard();
    const found = (rest + decoder.decode(part.value, { stream: true })).split(/\r?\n/);
    rest = found.pop();
    yield* found;
  }
}
