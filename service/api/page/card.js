/* A photo in the list. */

import { Slots } from './slots.js';
import { size, status } from './words.js';

const MOVING = new Set(['uploading', 'running', 'fetching']);
const decoders = new Slots(1); // a photo is large once it is decoded

/** The card of one photo. `does`: open, again, remove, save. */
export class Card {
  #photo;
  #parts;
  #drawn = null;

  constructor(photo, does) {
    this.#photo = photo;
    this.element = document.getElementById('card').content.firstElementChild.cloneNode(true);
    const part = (selector) => this.element.querySelector(selector);
    this.#parts = {
      ...{ open: part('.open'), save: part('.save'), again: part('.again'), away: part('.away') },
      ...{ status: part('.status'), progress: part('progress'), canvas: part('canvas') },
    };
    part('.name').textContent = photo.name;
    this.#parts.progress.setAttribute('aria-label', `Progress of ${photo.name}`);
    this.#parts.open.addEventListener('click', () => does.open(photo));
    this.#parts.save.addEventListener('click', () => does.save(photo));
    this.#parts.again.addEventListener('click', () => does.again(photo));
    this.#parts.away.addEventListener('click', () => (photo.ended ? does.remove(photo) : photo.cancel()));
    this.#draw(photo.file, (picture) => {
      photo.size = picture;
    });
  }

  /** Show the photo as it is now. */
  update(selected) {
    const { name, state, ended, result } = this.#photo;
    const { open, save, again, away, status: line, progress } = this.#parts;
    this.element.dataset.state = state;
    if (selected) open.setAttribute('aria-current', 'true');
    else open.removeAttribute('aria-current');
    line.textContent = status(this.#photo);
    setProgress(progress, this.#photo);
    save.hidden = state !== 'done';
    again.hidden = state !== 'failed' && state !== 'cancelled';
    label(save, `Download ${result?.name}`);
    label(again, `Try ${name} again`);
    label(away, `${ended ? 'Remove' : 'Cancel'} ${name}`);
    if (result && this.#drawn !== result) {
      this.#drawn = result;
      this.#draw(result.blob, (picture) => Object.assign(result, picture));
    }
  }

  focus() {
    this.#parts.open.focus();
  }

  /* Only the little picture is kept, and the large one's size. */
  async #draw(blob, known) {
    const { canvas } = this.#parts;
    let image;
    try {
      image = await decoders.run(undefined, () => createImageBitmap(blob));
    } catch {
      return; // of a kind that the browser cannot show; the service may know it
    }
    const { width, height } = image;
    const scale = Math.max(canvas.width / width, canvas.height / height);
    const [w, h] = [width * scale, height * scale];
    const context = canvas.getContext('2d');
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = 'high';
    context.drawImage(image, (canvas.width - w) / 2, (canvas.height - h) / 2, w, h);
    image.close();
    canvas.hidden = false;
    known({ width, height });
    this.#photo.dispatchEvent(new Event('change'));
  }
}

/** A bar that is there while something moves, and tells how much where that is known. */
export function setProgress(progress, { state, fraction }) {
  progress.hidden = !MOVING.has(state);
  if (fraction === null) progress.removeAttribute('value');
  else progress.value = fraction;
}

function label(button, text) {
  if (button.title === text) return;
  button.title = text;
  button.setAttribute('aria-label', text);
}
