/**
 * Small live charts on canvases: lines, or a stack of areas, over the time that has passed. All charts
 * of a page share one time and one cursor, and are marked where something happened.
 */

const GAP_MS = 3500;                // samples that are farther apart are not joined
const [LEFT, BOTTOM, TOP] = [46, 18, 8];

/**
 * @typedef {{t: number, [name: string]: any}} Sample
 * @typedef {{t: number, kind: string}} Mark
 * @typedef {object} Scene what is drawn
 * @property {Sample[]} samples
 * @property {number} from @property {number} to the time that is shown, in ms
 * @property {Mark[]} marks
 * @property {number | null} cursor the time that somebody points at
 */

/** The next number that is easy to read: 1, 2, 2.5 or 5, times a power of ten. @param {number} most */
export function roundUp(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return power * /** @type {number} */ ([1, 2, 2.5, 5, 10].find(step => step * power >= most * 0.999999));
}

/** 1234567 → 1.2 M. @param {number} number */
export function short(number) {
  if (number === 0) return '0';
  const size = Math.abs(number);
  const [divisor, unit] = size >= 1e9 ? [1e9, ' G'] : size >= 1e6 ? [1e6, ' M'] : size >= 1e4 ? [1e3, ' k'] : [1, ''];
  const scaled = number / divisor;
  const digits = Math.abs(scaled) >= 100 || unit === '' && Number.isInteger(scaled) ? 0 : Math.abs(scaled) >= 10 ? 1 : Math.abs(scaled) < 0.1 ? 3 : 2;
  return scaled.toLocaleString('en', { maximumFractionDigits: digits }) + unit;
}

export class Chart {
  /** @type {Scene | null} */
  #scene = null;
  #canvas;
  #legend;
  #value;
  #options;
  /** @type {string[]} names in the order of their colours, which they keep */
  #names = [];

  /**
   * @param {HTMLElement} host an element that becomes the chart
   * @param {object} options
   * @param {string} options.title
   * @param {string} [options.unit]
   * @param {boolean} [options.stack] areas on top of each other, whose sum counts; else lines
   * @param {(sample: Sample) => Record<string, number | null>} options.values of each series
   * @param {(sample: Sample) => number | null} options.headline the number beside the title
   * @param {(time: number | null) => void} options.point somebody points at a time, or does no more
   */
  constructor(host, options) {
    this.#options = options;
    host.classList.add('chart');
    const title = host.appendChild(document.createElement('h2'));
    title.textContent = options.title;
    this.#value = host.appendChild(document.createElement('output'));
    this.#legend = host.appendChild(document.createElement('p'));
    this.#legend.className = 'legend';
    this.#canvas = host.appendChild(document.createElement('canvas'));
    this.#canvas.tabIndex = 0;
    this.#canvas.setAttribute('role', 'img');
    this.#canvas.setAttribute('aria-label', options.title);
    this.#canvas.onpointermove = ({ offsetX }) => {
      if (!this.#scene) return;
      const { from, to } = this.#scene;
      options.point(from + (offsetX - LEFT) / Math.max(1, this.#canvas.clientWidth - LEFT) * (to - from));
    };
    this.#canvas.onpointerleave = this.#canvas.onblur = () => options.point(null);
    this.#canvas.onkeydown = event => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === 'Escape') options.point(null);
      if (!step || !this.#scene) return;
      event.preventDefault();
      const { samples, cursor } = this.#scene;
      const at = cursor === null ? samples.length : samples.findIndex(({ t }) => t >= cursor);
      options.point(samples[Math.min(samples.length - 1, Math.max(0, at + step))]?.t ?? null);
    };
    new ResizeObserver(() => this.#scene && this.draw(this.#scene)).observe(this.#canvas);
  }

  /** @param {Scene} scene */
  draw(scene) {
    this.#scene = scene;
    const { samples, from, to, marks, cursor } = scene;
    const shown = samples.filter(({ t }) => t >= from - GAP_MS && t <= to);
    const rows = shown.map(sample => this.#options.values(sample));
    for (const name of new Set(rows.flatMap(Object.keys))) if (!this.#names.includes(name)) this.#names.push(name);
    const names = this.#names.filter(name => rows.some(row => name in row));

    const canvas = this.#canvas;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    const ratio = devicePixelRatio;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    const style = getComputedStyle(canvas);
    const color = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
    const colorOf = (/** @type {string} */ name) => color(`series-${this.#names.indexOf(name) % 6 + 1}`);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = `11px ${style.fontFamily}`;

    const sum = (/** @type {Record<string, number | null>} */ row) => names.reduce((all, name) => all + (row[name] ?? 0), 0);
    const most = roundUp(Math.max(0, ...rows.map(row => this.#options.stack ? sum(row) : Math.max(0, ...names.map(name => row[name] ?? 0)))));
    const x = (/** @type {number} */ t) => LEFT + (t - from) / (to - from) * (width - LEFT - 1);
    const y = (/** @type {number} */ value) => TOP + (1 - value / most) * (height - TOP - BOTTOM);

    // The scales.
    pen.fillStyle = color('dim');
    pen.strokeStyle = color('line');
    pen.lineWidth = 1;
    pen.textBaseline = 'middle';
    pen.textAlign = 'right';
    for (const part of [0, 0.5, 1]) {
      const at = Math.round(y(most * part)) + 0.5;
      pen.beginPath();
      pen.moveTo(LEFT, at);
      pen.lineTo(width, at);
      pen.stroke();
      pen.fillText(short(most * part), LEFT - 6, at);
    }
    pen.textBaseline = 'alphabetic';
    const step = (to - from) / 4;
    for (let i = 0; i <= 4; i++) {
      pen.textAlign = i === 0 ? 'left' : i === 4 ? 'right' : 'center';
      const ago = Math.round((to - from - i * step) / 1000);
      const text = ago === 0 ? 'now' : ago % 60 === 0 ? `−${ago / 60} min` : `−${ago} s`;
      pen.fillText(text, x(from + i * step), height - 4);
    }

    // What happened.
    for (const { t, kind } of marks) {
      if (t < from || t > to) continue;
      pen.strokeStyle = color(kind);
      pen.globalAlpha = 0.7;
      pen.setLineDash([3, 3]);
      pen.beginPath();
      pen.moveTo(x(t), TOP);
      pen.lineTo(x(t), height - BOTTOM);
      pen.stroke();
      pen.setLineDash([]);
      pen.globalAlpha = 1;
    }

    // What was measured, in pieces that belong together.
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, 0, width, height);
    pen.clip();
    for (const [begin, end] of pieces(shown)) {
      const below = new Array(end - begin).fill(0);
      for (const name of names) {
        pen.beginPath();
        let down = false;
        const tops = below.map((base, i) => {
          const value = rows[begin + i][name];
          return this.#options.stack ? base + (value ?? 0) : value;
        });
        tops.forEach((top, i) => {
          if (top === null || top === undefined) return down = false;
          const point = /** @type {[number, number]} */ ([x(shown[begin + i].t), y(top)]);
          down ? pen.lineTo(...point) : pen.moveTo(...point);
          down = true;
        });
        pen.strokeStyle = pen.fillStyle = colorOf(name);
        pen.lineWidth = 1.75;
        pen.lineJoin = 'round';
        pen.stroke();
        if (!this.#options.stack) continue;
        for (let i = below.length - 1; i >= 0; i--) pen.lineTo(x(shown[begin + i].t), y(below[i]));
        pen.closePath();
        pen.globalAlpha = 0.3;
        pen.fill();
        pen.globalAlpha = 1;
        tops.forEach((top, i) => below[i] = top);
      }
    }
    pen.restore();

    // What somebody points at, or else the newest.
    const at = cursor === null ? shown.length - 1 : nearest(shown, cursor);
    if (cursor !== null && shown[at]) {
      pen.strokeStyle = color('ink');
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(x(shown[at].t), TOP);
      pen.lineTo(x(shown[at].t), height - BOTTOM);
      pen.stroke();
    }
    const row = rows[at] ?? {};
    const { title, unit = '', headline } = this.#options;
    const value = shown[at] ? headline(shown[at]) : null;
    this.#value.textContent = value === null ? '–' : short(value) + unit;
    // One line needs no name.
    this.#legend.hidden = !this.#options.stack && names.length < 2;
    this.#legend.replaceChildren(...names.map(name => {
      const entry = document.createElement('span');
      const swatch = entry.appendChild(document.createElement('i'));
      swatch.style.background = colorOf(name);
      entry.append(`${name} `);
      const number = row[name];
      entry.appendChild(document.createElement('b')).textContent = number === null || number === undefined ? '–' : short(number);
      return entry;
    }));
    canvas.setAttribute('aria-label', `${title}: ${this.#value.textContent}${names.length > 1 ? `; ${this.#legend.textContent}` : ''}`);
  }
}

/** Samples without a gap between them, from and to. @param {Sample[]} samples @returns {[number, number][]} */
function pieces(samples) {
  /** @type {[number, number][]} */
  const found = [];
  samples.forEach(({ t }, i) => {
    const last = found.at(-1);
    if (last && t - samples[i - 1].t <= GAP_MS) last[1] = i + 1;
    else found.push([i, i + 1]);
  });
  return found;
}

/** @param {Sample[]} samples @param {number} time */
function nearest(samples, time) {
  let best = samples.length - 1;
  samples.forEach(({ t }, i) => { if (Math.abs(t - time) < Math.abs(samples[best].t - time)) best = i; });
  return best;
}
