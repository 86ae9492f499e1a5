/* A picture in a frame: how large it is drawn and where. Lengths in CSS pixels, `scale` in CSS pixels per image pixel. */

const LARGEST = 16; // device pixels per image pixel

/** Zoom and pan without a screen. */
export class View {
  frame = { width: 1, height: 1 };
  image = { width: 1, height: 1 };
  scale = 1;
  x = 0;
  y = 0;
  fitted = true;

  /** The scale at which the whole picture is seen. */
  get fit() {
    return Math.min(this.frame.width / this.image.width, this.frame.height / this.image.height);
  }

  /** The part of the frame that the picture covers: its edges. */
  get covered() {
    return {
      left: Math.max(0, this.x),
      right: Math.min(this.frame.width, this.x + this.image.width * this.scale),
      top: Math.max(0, this.y),
      bottom: Math.min(this.frame.height, this.y + this.image.height * this.scale),
    };
  }

  /** See the whole picture, and go on to when the frame changes. */
  showWhole() {
    this.fitted = true;
    this.scale = this.fit;
    this.#keepIn();
  }

  /** The frame has another size now. */
  resize(width, height) {
    const [dx, dy] = [(width - this.frame.width) / 2, (height - this.frame.height) / 2];
    this.frame = { width, height };
    if (this.fitted) this.showWhole();
    else this.pan(dx, dy);
  }

  /** Draw at `scale`; what is at (x, y) of the frame stays there. */
  zoomTo(scale, x = this.frame.width / 2, y = this.frame.height / 2) {
    const within = Math.max(this.fit, Math.min(Math.max(this.fit, LARGEST / devicePixelRatio), scale));
    this.x = x - ((x - this.x) * within) / this.scale;
    this.y = y - ((y - this.y) * within) / this.scale;
    this.scale = within;
    this.fitted = within <= this.fit * 1.0001;
    this.#keepIn();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#keepIn();
  }

  /* A picture smaller than the frame lies in its middle, a larger one leaves no gap. */
  #keepIn() {
    const { width, height } = this.frame;
    this.x = kept(this.x, width, this.image.width * this.scale);
    this.y = kept(this.y, height, this.image.height * this.scale);
  }
}

function kept(at, frame, picture) {
  return picture <= frame ? (frame - picture) / 2 : Math.min(0, Math.max(frame - picture, at));
}
