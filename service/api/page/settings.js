/* What the next photo is made with. */

import { pause } from './slots.js';
import { duration, times } from './words.js';

const RETRY_S = 5;

/** The form. `changed()` is called when a setting has. */
export class Settings {
  #form;
  #models = [];

  constructor(root, changed) {
    this.#form = root.querySelector('form');
    this.#form.addEventListener('submit', (event) => event.preventDefault());
    this.#form.addEventListener('input', () => {
      this.#say();
      changed();
    });
    this.#say();
    const narrow = matchMedia('(max-width: 879px)');
    const fold = () => {
      root.open = !narrow.matches;
    };
    narrow.addEventListener('change', fold);
    fold();
  }

  /** As `POST /v1/upscale` takes them. */
  get options() {
    return Object.fromEntries(new FormData(this.#form));
  }

  /** Ask the service for its models until it has some. */
  async load(api) {
    for (;;) {
      try {
        const { default: first, models } = await api.json('v1/models');
        if (models.length) {
          this.#offer(models, first);
          return;
        }
        this.#about(['No model is ready yet']);
      } catch (problem) {
        this.#about([problem.title ?? `${problem}`]);
      }
      await pause(RETRY_S);
    }
  }

  #offer(models, first) {
    this.#models = models;
    const options = models.map(({ name }) => new Option(name, name, name === first, name === first));
    this.#form.elements.model.replaceChildren(...options);
    this.#say();
  }

  #say() {
    const { model, scale, strength, format } = this.options;
    document.getElementById('scale-said').textContent = times(scale);
    document.getElementById('strength-said').textContent = Number(strength).toFixed(2);
    document.getElementById('summary').textContent = `${times(scale)} · ${NAMES[format]}`;
    this.#form.elements.scale.setAttribute('aria-valuetext', `${scale} times`);
    for (const range of this.#form.querySelectorAll('[type=range]')) {
      range.style.setProperty('--part', (range.value - range.min) / (range.max - range.min));
    }
    const known = this.#models.find(({ name }) => name === model);
    if (known) this.#about(about(known));
  }

  #about(facts) {
    const told = facts.map((fact) => Object.assign(document.createElement('span'), { textContent: fact }));
    document.getElementById('model-about').replaceChildren(...told);
  }
}

const NAMES = { png: 'PNG', jpeg: 'JPEG', webp: 'WebP', avif: 'AVIF' };

function about({ license, seconds_per_megapixel: pace }) {
  return [pace && `About ${duration(pace)} per megapixel`, license].filter(Boolean);
}
