/** A number of places, taken in the order of asking. */
export class Slots {
  #free;
  #asking = [];

  constructor(count) {
    this.#free = count;
  }

  /** Do the work when there is a place for it. Rejects with the signal's reason when that comes first. */
  async run(signal, work) {
    await this.#take(signal);
    try {
      return await work();
    } finally {
      this.release();
    }
  }

  /** Take a place if one is free; who gets `true` releases it. */
  tryTake() {
    if (this.#free === 0) return false;
    this.#free -= 1;
    return true;
  }

  #take(signal) {
    signal?.throwIfAborted();
    if (this.tryTake()) return undefined;
    return new Promise((resolve, reject) => {
      const asked = () => {
        signal?.removeEventListener('abort', left);
        resolve();
      };
      const left = () => {
        this.#asking.splice(this.#asking.indexOf(asked), 1);
        reject(signal.reason);
      };
      signal?.addEventListener('abort', left, { once: true });
      this.#asking.push(asked);
    });
  }

  release() {
    const next = this.#asking.shift();
    if (next) next();
    else this.#free += 1;
  }
}

/** Seconds of nothing. Rejects with the signal's reason when that comes first. */
export function pause(seconds, signal) {
  signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const left = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', left);
      resolve();
    }, seconds * 1000);
    signal?.addEventListener('abort', left, { once: true });
  });
}
