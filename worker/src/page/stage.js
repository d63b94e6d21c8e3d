/**
 * The stage: comments that fly over it, as elements that are used again and again.
 *
 * What is not shown costs nothing: widths are measured on a canvas, and only a comment that has a lane
 * gets an element. From there on the browser moves it, without a script.
 */

import { Lanes } from './lanes.js';

const still = matchMedia('(prefers-reduced-motion: reduce)');

export class Stage {
  #element;
  #lanes = new Lanes();
  #pen = /** @type {CanvasRenderingContext2D} */ (document.createElement('canvas').getContext('2d'));
  #fonts = ['', ''];
  #laneHeight = 1;
  #width = 1;
  #padding = 0;
  #frame = 0;
  #paused = 0;
  /** @type {Map<HTMLElement, {animation: Animation, comment: any}>} */
  #flying = new Map();
  /** @type {HTMLElement[]} */
  #idle = [];

  /** @param {HTMLElement} element */
  constructor(element) {
    this.#element = element;
    new ResizeObserver(() => this.#measure()).observe(element);
    still.addEventListener('change', () => { this.clear(); this.#measure(); });
    this.#measure();
  }

  /** How many have been shown and left out, so far. */
  get counts() {
    return { shown: this.#lanes.shown, dropped: this.#lanes.dropped };
  }

  /**
   * @param {{pos: string | null, nick: string, text: string, color: string, own: boolean}} comment of
   *   which only `text` must be there; `own` ones are marked
   */
  add(comment) {
    if (this.#paused || document.hidden) return;
    const [normal, small] = this.#fonts;
    const width = (/** @type {string} */ font, /** @type {string} */ text) => {
      this.#pen.font = font;
      return this.#pen.measureText(text).width;
    };
    /** @type {number | undefined} */
    let measured;
    const waiting = Object.defineProperty({ ...comment, width: 0 }, 'width', {
      // Once, and only if it is wanted.
      get: () => measured ??= Math.ceil(this.#padding + width(normal, comment.text) +
        (comment.nick ? width(small, comment.nick) + width(normal, '\u2002') : 0)),
    });
    this.#lanes.add(waiting, performance.now());
    this.#frame ||= requestAnimationFrame(now => this.#fly(now));
  }

  /** Takes away what is like this, wherever it is. @param {(comment: any) => boolean} which */
  remove(which) {
    this.#lanes.remove(which);
    for (const [element, { comment }] of this.#flying) if (which(comment)) this.#land(element);
  }

  clear() {
    this.#lanes.clear();
    for (const element of [...this.#flying.keys()]) this.#land(element);
  }

  /** All stands still, and nothing new starts; or goes on. @param {boolean} paused */
  pause(paused) {
    if (paused === this.#paused > 0) return;
    for (const { animation } of this.#flying.values()) paused ? animation.pause() : animation.play();
    if (!paused) this.#lanes.shift(performance.now() - this.#paused);
    this.#paused = paused ? performance.now() : 0;
    if (this.#lanes.waiting) this.#frame ||= requestAnimationFrame(now => this.#fly(now));
  }

  #measure() {
    const style = getComputedStyle(this.#element);
    const size = parseFloat(style.fontSize);
    this.#fonts = [`600 ${size}px ${style.fontFamily}`, `400 ${size * 0.65}px ${style.fontFamily}`];
    this.#padding = size;                           // .5em at both ends
    this.#laneHeight = parseFloat(style.lineHeight);
    this.#width = this.#element.clientWidth;
    this.#lanes.resize(Math.floor(this.#element.clientHeight / this.#laneHeight), this.#width, still.matches);
  }

  /** Once a frame while some wait. @param {number} now */
  #fly(now) {
    this.#frame = 0;
    if (this.#paused) return;
    for (const { comment, lane, duration } of this.#lanes.next(now)) this.#start(comment, lane, duration, now);
    if (this.#lanes.waiting) this.#frame = requestAnimationFrame(now => this.#fly(now));
  }

  /** @param {any} comment @param {number} lane @param {number} duration @param {number} now */
  #start(comment, lane, duration, now) {
    const element = this.#idle.pop() ?? this.#element.appendChild(document.createElement('div'));
    const { nick, text, color, own, width } = comment;
    element.className = `comment${own ? ' mine' : ''}${still.matches ? ' still' : ''}`;
    element.dir = 'auto';
    element.style.top = `${lane * this.#laneHeight}px`;
    element.style.color = color;
    element.textContent = text;
    if (nick) {
      const name = document.createElement('bdi');
      name.textContent = nick;
      element.prepend(name, '\u2002');
    }
    const frames = still.matches
      ? { opacity: [0, 1, 1, 0], offset: [0, 0.1, 0.9, 1] }
      : { transform: ['translateX(0)', `translateX(${-this.#width - width}px)`] };
    const animation = element.animate(frames, { duration, fill: 'forwards' });
    // Else it would start when it is drawn first, which may be late, and no more fit into its lane.
    animation.startTime = now;
    animation.onfinish = () => this.#land(element);
    this.#flying.set(element, { animation, comment });
  }

  /** @param {HTMLElement} element */
  #land(element) {
    const flight = this.#flying.get(element);
    if (!flight) return;
    this.#flying.delete(element);
    flight.animation.onfinish = null;
    flight.animation.cancel();
    element.className = 'idle';
    element.textContent = '';
    this.#idle.push(element);
  }
}
