/**
 * Which comment flies when, in which lane, and which do not fly: no document and no clock here.
 *
 * All cross the stage in the same time, so that long ones are faster; when many wait, in a shorter one.
 * A lane is free when its last comment has entered wholly and will have left before the new one
 * arrives at the left edge: none ever touches another. Who finds no lane waits a moment; when too many
 * wait, the oldest are left out, but never one's own.
 */

/** Between two comments of one lane, at least. */
export const DISTANCE_PX = 24;

/**
 * @typedef {object} Comment
 * @property {number} width in pixels
 * @property {boolean} [own] it goes before all others, and is never left out
 * @property {number} [since] when it came; this is set here
 */

export class Lanes {
  /** Comments that were left out so far. */
  dropped = 0;
  /** Comments that fly, or have flown. */
  shown = 0;

  /** @type {{clear: number, gone: number}[]} when the last of each has entered wholly, and left wholly */
  #lanes = [];
  /** @type {Comment[]} */
  #waiting = [];
  #width = 1;
  #still = false;
  #most;
  #patience;

  /** @param {{most?: number, patience?: number}} [options] how many wait at most, and how many ms each */
  constructor({ most = 40, patience = 4000 } = {}) {
    this.#most = most;
    this.#patience = patience;
  }

  /**
   * @param {number} count of lanes @param {number} width of the stage
   * @param {boolean} [still] nothing flies: each comment stands in its lane for a while
   */
  resize(count, width, still = false) {
    this.#lanes = Array.from({ length: Math.max(1, count) }, (_, i) => this.#lanes[i] ?? { clear: 0, gone: 0 });
    this.#width = Math.max(1, width);
    this.#still = still;
  }

  /** Ms that a comment is to be seen that starts now. */
  get duration() {
    const calm = this.#still ? 5000 : 6500 + this.#width * 2.5;
    return this.#waiting.length > this.#most / 2 ? calm * 0.6 : calm;
  }

  get waiting() {
    return this.#waiting.length;
  }

  /** @param {Comment} comment @param {number} now */
  add(comment, now) {
    comment.since = now;
    // Behind one's own that wait already.
    if (comment.own) this.#waiting.splice(this.#waiting.findLastIndex(({ own }) => own) + 1, 0, comment);
    else this.#waiting.push(comment);
    if (this.#waiting.length > this.#most) this.#leaveOut(this.#waiting.findIndex(({ own }) => !own));
  }

  /**
   * What starts now.
   * @param {number} now @returns {{comment: Comment, lane: number, duration: number}[]}
   */
  next(now) {
    const starts = [];
    const left = [];
    for (const comment of this.#waiting) {
      const lane = this.#free(comment, now);
      if (lane >= 0) starts.push({ comment, lane, duration: this.duration });
      else if (comment.own || now - (comment.since ?? now) < this.#patience) left.push(comment);
      else this.dropped++;
    }
    this.#waiting = left;
    this.shown += starts.length;
    return starts;
  }

  /** Forgets all that wait and fly. */
  clear() {
    this.#waiting = [];
    for (const lane of this.#lanes) lane.clear = lane.gone = 0;
  }

  /** Forgets those that wait and are like this. @param {(comment: any) => boolean} which */
  remove(which) {
    this.#waiting = this.#waiting.filter(comment => !which(comment));
  }

  /** The clock of all that flies stood still for so long. @param {number} ms */
  shift(ms) {
    for (const lane of this.#lanes) {
      lane.clear += ms;
      lane.gone += ms;
    }
    for (const comment of this.#waiting) comment.since = (comment.since ?? 0) + ms;
  }

  /** Takes the uppermost lane that is free for it; -1: none is. @param {Comment} comment @param {number} now */
  #free(comment, now) {
    // It is looked at only if some lane may do: to measure a width takes time.
    if (!this.#lanes.some(({ clear }) => now >= clear)) return -1;
    const { duration } = this;
    const speed = (this.#width + comment.width) / duration;
    const arrives = now + (this.#still ? duration : this.#width / speed);
    const index = this.#lanes.findIndex(({ clear, gone }) => now >= clear && arrives >= gone);
    if (index < 0) return -1;
    const lane = this.#lanes[index];
    lane.gone = now + duration;
    lane.clear = this.#still ? lane.gone : now + (comment.width + DISTANCE_PX) / speed;
    return index;
  }

  /** @param {number} index */
  #leaveOut(index) {
    if (index < 0) return;                          // all are one's own
    this.#waiting.splice(index, 1);
    this.dropped++;
  }
}
