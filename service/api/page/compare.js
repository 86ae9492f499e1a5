/* Before and after, one over the other, with a line between them that can be moved; zoom and pan. */

import { View } from './view.js';

const STEP = 1.25;
const SOME = 60; // CSS pixels of a pan by key
const REVEAL_MS = 900;

/** The slider. `moved()` is called when zoom has changed. */
export class Compare {
  #view = new View();
  #split = 0.5;
  #urls = [];
  #fingers = new Map();
  #drag = null;
  #frame;
  #line;
  #images;
  #moved;
  #reveal = 0;

  constructor(root, moved) {
    this.#frame = root;
    this.#line = root.querySelector('[role=slider]');
    this.#images = { before: root.querySelector('.before img'), after: root.querySelector('.after img') };
    this.#moved = moved;
    new ResizeObserver(() => this.#resize()).observe(root);
    root.addEventListener('keydown', (event) => this.#key(event));
    root.addEventListener('wheel', (event) => this.#wheel(event), { passive: false });
    root.addEventListener('dblclick', (event) => this.#twice(event));
    root.addEventListener('pointerdown', (event) => this.#down(event));
    root.addEventListener('pointermove', (event) => this.#move(event));
    for (const kind of ['pointerup', 'pointercancel']) root.addEventListener(kind, (event) => this.#up(event));
  }

  /** Device pixels per pixel of the result. */
  get zoom() {
    return this.#view.scale * devicePixelRatio;
  }

  get fitted() {
    return this.#view.fitted;
  }

  /** Show two files. The result's size, once it can be seen. */
  async show(before, after, name) {
    this.clear();
    const urls = [before, after].map((blob) => URL.createObjectURL(blob));
    this.#urls = urls;
    const { before: first, after: second } = this.#images;
    [first.src, second.src] = urls;
    [first.alt, second.alt] = [`${name}, before`, `${name}, after`];
    const [original] = await Promise.allSettled([first.decode(), second.decode()]);
    if (this.#urls !== urls) return null; // another one is shown by now
    const alone = original.status === 'rejected'; // a TIFF, say: the service reads what browsers do not
    this.#frame.classList.toggle('alone', alone);
    this.#view.image = { width: second.naturalWidth || 1, height: second.naturalHeight || 1 };
    for (const image of [first, second]) [image.width, image.height] = [this.#view.image.width, this.#view.image.height];
    this.#resize();
    this.fit();
    this.#unveil(alone ? 0 : 0.5);
    return this.#view.image;
  }

  /** Let go of the files. */
  clear() {
    cancelAnimationFrame(this.#reveal);
    for (const url of this.#urls) URL.revokeObjectURL(url);
    this.#urls = [];
    for (const image of Object.values(this.#images)) image.removeAttribute('src');
  }

  fit() {
    this.#view.showWhole();
    this.#draw();
  }

  actualSize() {
    this.#zoomTo(1 / devicePixelRatio);
  }

  zoomIn() {
    this.#zoomTo(this.#view.scale * STEP);
  }

  zoomOut() {
    this.#zoomTo(this.#view.scale / STEP);
  }

  #zoomTo(scale, x, y) {
    this.#view.zoomTo(scale, x, y);
    this.#draw();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.#frame;
    if (!clientWidth) return;
    this.#view.resize(clientWidth, clientHeight);
    this.#draw();
  }

  #splitAt(fraction) {
    cancelAnimationFrame(this.#reveal);
    this.#split = Math.min(1, Math.max(0, fraction));
    this.#draw();
  }

  #draw() {
    const { x, y, scale, fitted, frame } = this.#view;
    const { left, right, top, bottom } = this.#view.covered;
    const style = this.#frame.style;
    style.setProperty('--place', `translate(${x}px, ${y}px) scale(${scale})`);
    style.setProperty('--at', `${left + this.#split * (right - left)}px`);
    style.setProperty('--left', `${left}px`);
    style.setProperty('--right', `${frame.width - right}px`);
    style.setProperty('--top', `${top}px`);
    style.setProperty('--bottom', `${frame.height - bottom}px`);
    this.#frame.classList.toggle('zoomed', !fitted);
    const before = Math.round(100 * this.#split);
    this.#line.setAttribute('aria-valuenow', before);
    this.#line.setAttribute('aria-valuetext', `${before} % before, ${100 - before} % after`);
    this.#moved();
  }

  /* From the original to both: it shows what the line is for. */
  #unveil(to) {
    if (to === 0 || matchMedia('(prefers-reduced-motion: reduce)').matches) {
      this.#splitAt(to);
      return;
    }
    this.#splitAt(1);
    const began = performance.now();
    const step = (now) => {
      const part = Math.min(1, Math.max(0, now - began) / REVEAL_MS);
      this.#splitAt(1 - (1 - to) * (1 - (1 - part) ** 4));
      if (part < 1) this.#reveal = requestAnimationFrame(step);
    };
    this.#reveal = requestAnimationFrame(step);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = KEYS[event.key] ?? (event.target === this.#line || this.fitted ? SPLIT_KEYS : PAN_KEYS)[event.key];
    if (!act) return;
    event.preventDefault();
    const made = act(this, this.#split);
    if (typeof made === 'number') this.#splitAt(made);
    else if (made) this.#pan(...made);
  }

  #pan(dx, dy) {
    this.#view.pan(dx, dy);
    this.#draw();
  }

  /* Where the page itself scrolls, the wheel is left to it until a picture is enlarged. */
  #wheel(event) {
    const page = document.documentElement;
    if (this.fitted && !event.ctrlKey && page.scrollHeight > page.clientHeight) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    const by = Math.max(-100, Math.min(100, event.deltaY * lines));
    this.#zoomTo(this.#view.scale * Math.exp(-by * (event.ctrlKey ? 0.01 : 0.003)), ...this.#within(event));
  }

  #twice(event) {
    const { scale, fit } = this.#view;
    if (this.fitted) this.#zoomTo(Math.max(1 / devicePixelRatio, 2.5 * fit), ...this.#within(event));
    else if (scale) this.fit();
  }

  #down(event) {
    if (event.button !== 0) return;
    this.#fingers.set(event.pointerId, this.#within(event));
    this.#frame.setPointerCapture(event.pointerId);
    const onLine = this.#line.contains(event.target);
    this.#drag = onLine || this.fitted ? 'line' : 'picture';
    if (this.#fingers.size === 1 && this.#drag === 'line' && !onLine && event.pointerType === 'mouse') this.#lineTo(event);
  }

  #move(event) {
    const before = this.#fingers.get(event.pointerId);
    if (!before) return;
    const now = this.#within(event);
    const other = [...this.#fingers].find(([id]) => id !== event.pointerId)?.[1];
    this.#fingers.set(event.pointerId, now);
    if (other) this.#pinch(before, now, other);
    else if (this.#drag === 'line') this.#lineTo(event);
    else this.#pan(now[0] - before[0], now[1] - before[1]);
  }

  #pinch(before, now, other) {
    const apart = (a, b) => Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1]));
    const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
    this.#drag = 'picture'; // the finger that stays pans
    this.#view.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    this.#zoomTo((this.#view.scale * apart(now, other)) / apart(before, other), ...middle);
  }

  #up(event) {
    this.#fingers.delete(event.pointerId);
  }

  #lineTo(event) {
    const { left, right } = this.#view.covered;
    this.#splitAt((this.#within(event)[0] - left) / Math.max(1, right - left));
  }

  #within(event) {
    const { left, top } = this.#frame.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }
}

const KEYS = {
  '+': (compare) => compare.zoomIn(),
  '=': (compare) => compare.zoomIn(),
  '-': (compare) => compare.zoomOut(),
  0: (compare) => compare.fit(),
  1: (compare) => compare.actualSize(),
};

/* The line's next place. */
const SPLIT_KEYS = {
  ArrowLeft: (_, split) => split - 0.01,
  ArrowRight: (_, split) => split + 0.01,
  ArrowDown: (_, split) => split - 0.01,
  ArrowUp: (_, split) => split + 0.01,
  PageDown: (_, split) => split - 0.1,
  PageUp: (_, split) => split + 0.1,
  Home: () => 0,
  End: () => 1,
};

/* How far the picture goes. */
const PAN_KEYS = {
  ArrowLeft: () => [SOME, 0],
  ArrowRight: () => [-SOME, 0],
  ArrowUp: () => [0, SOME],
  ArrowDown: () => [0, -SOME],
};
