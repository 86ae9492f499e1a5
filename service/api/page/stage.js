/* The large picture: the photo while it is made, before and after once it is. */

import { setProgress } from './card.js';
import { Compare } from './compare.js';
import { size, status, times } from './words.js';

/** Shows the selected photo. `does`: again, save. */
export class Stage {
  #root = document.getElementById('stage');
  #compare = new Compare(document.getElementById('compare'), () => this.#sayZoom());
  #photo = null;
  #shown = null;
  #url = null;

  constructor(does) {
    const on = (id, act) => document.getElementById(id).addEventListener('click', act);
    on('zoom-in', () => this.#compare.zoomIn());
    on('zoom-out', () => this.#compare.zoomOut());
    on('zoom-one', () => this.#compare.actualSize());
    on('zoom-fit', () => this.#compare.fit());
    on('stop', () => this.#photo.cancel());
    on('again', () => does.again(this.#photo));
    on('save', () => does.save(this.#photo));
    const preview = this.#part('.preview img');
    preview.addEventListener('load', () => this.#root.classList.remove('is-blind'));
    preview.addEventListener('error', () => this.#root.classList.add('is-blind'));
  }

  /** Show the photo as it is now; null: none. `options` are those that it would be made with again. */
  update(photo, options) {
    if (photo !== this.#photo || photo?.result !== this.#shown) this.#change(photo);
    if (!photo) return;
    const { state, ended, problem } = photo;
    this.#root.dataset.state = state;
    this.#part('.name').textContent = photo.name;
    this.#part('.status').textContent = state === 'done' ? whatWasMade(photo) : status(photo);
    this.#part('.why').textContent = problem ? `${problem.detail} ${problem.advice}`.trim() : '';
    setProgress(this.#part('progress'), photo);
    if (photo.size) this.#root.style.setProperty('--aspect', `${photo.size.width} / ${photo.size.height}`);
    else this.#root.style.removeProperty('--aspect');
    const other = Object.entries(options).some(([name, value]) => photo.options[name] !== value);
    document.getElementById('stop').hidden = ended;
    document.getElementById('save').hidden = state !== 'done';
    const again = document.getElementById('again');
    again.hidden = !ended || (state === 'done' && !other);
    again.querySelector('span').textContent = state === 'done' ? 'Redo with new settings' : 'Try again';
  }

  #part(selector) {
    return this.#root.querySelector(selector);
  }

  #change(photo) {
    this.#photo = photo;
    this.#shown = photo?.result ?? null;
    this.#compare.clear();
    this.#preview(photo && !this.#shown ? photo.file : null);
    this.#root.dataset.pane = panes(photo);
    if (this.#shown) this.#compare.show(photo.file, this.#shown.blob, photo.name);
  }

  #preview(file) {
    const image = this.#part('.preview img');
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = file && URL.createObjectURL(file);
    if (file) image.src = this.#url;
    else image.removeAttribute('src');
  }

  #sayZoom() {
    const level = document.getElementById('zoom-one');
    level.textContent = `${Math.round(100 * this.#compare.zoom)} %`;
    document.getElementById('zoom-fit').disabled = this.#compare.fitted;
    document.getElementById('zoom-out').disabled = this.#compare.fitted;
  }
}

function panes(photo) {
  if (!photo) return 'intake';
  return photo.result ? 'compare' : 'preview';
}

function whatWasMade(photo) {
  const before = photo.size ? size(photo.size) : 'the photo';
  return photo.result.width ? `${before} → ${size(photo.result)}` : `${times(photo.options.scale)} as large`;
}
