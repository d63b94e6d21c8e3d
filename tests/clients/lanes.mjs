// lanes.js: whatever comes, and whenever, no comment touches another.

import assert from 'node:assert/strict';
import { check, done, served } from './tap.mjs';

const { Lanes } = await served('/lanes.js');

/** Dice with a seed. */
function dice(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), seed | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Plays so many comments a second, for so many seconds; all that has started. */
function play(lanes, { rate, seconds, random, own = 0, most = 1500 }) {
  const started = [];
  let said = 0;
  for (let now = 0; now < seconds * 1000; now += 16) {
    for (; said < now / 1000 * rate; said++) {
      const width = random() < 0.1 ? 200 + random() * most : 20 + random() * 300;
      lanes.add({ width, own: random() < own, n: said }, now);
    }
    for (const { comment, lane, duration } of lanes.next(now)) started.push({ ...comment, lane, duration, start: now });
  }
  return { started, said };
}

/** Where head and tail of it are, from the right edge on. */
const at = ({ start, duration, width }, stage, now) => {
  const head = (now - start) / duration * (stage + width);
  return [head, head - width];
};

await check('no comment touches the one before it, in stages of every size', () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = dice(seed);
    const [count, width] = [1 + Math.floor(random() * 30), 200 + Math.floor(random() * 3000)];
    const lanes = new Lanes();
    lanes.resize(count, width);
    const { started } = play(lanes, { rate: 1 + random() * 400, seconds: 20, random });
    assert(started.length > 0);
    const last = new Map();
    for (const comment of started) {
      assert(comment.lane < count);
      const before = last.get(comment.lane);
      last.set(comment.lane, comment);
      if (!before) continue;
      const end = Math.min(before.start + before.duration, comment.start + comment.duration);
      for (const now of [comment.start, (comment.start + end) / 2, end]) {
        const [, tail] = at(before, width, now);
        const [head] = at(comment, width, now);
        // Distances grow or shrink evenly: the ends of the time that both are there say it all.
        if (now <= before.start + before.duration) assert(head <= tail + 0.01, `seed ${seed}: ${head} > ${tail}`);
      }
    }
  }
});

await check('with still comments, one lane shows one at a time', () => {
  const lanes = new Lanes();
  lanes.resize(5, 800, true);
  const { started } = play(lanes, { rate: 50, seconds: 30, random: dice(7) });
  for (let lane = 0; lane < 5; lane++) {
    const inLane = started.filter(comment => comment.lane === lane);
    inLane.slice(1).forEach((comment, i) => assert(comment.start >= inLane[i].start + inLane[i].duration));
  }
  assert(started.length >= 25);
});

await check('what finds no lane is left out and counted, but never one\'s own', () => {
  const lanes = new Lanes();
  lanes.resize(10, 1000);
  const { started, said } = play(lanes, { rate: 500, seconds: 20, random: dice(3), own: 0.004 });
  assert.equal(started.length + lanes.dropped + lanes.waiting, said);
  assert.equal(started.length, lanes.shown);
  assert(lanes.dropped > said / 2 && lanes.waiting <= 40);
  const own = started.filter(comment => comment.own);
  assert(own.length >= 20, `${own.length} own ones flew`);
  // None waits longer than for the next lane that is long enough.
  for (const comment of own) assert(comment.start - comment.since < lanes.duration);
});

await check('when there is room, all fly, in the uppermost lanes', () => {
  const lanes = new Lanes();
  lanes.resize(10, 1000);
  const { started, said } = play(lanes, { rate: 1, seconds: 60, random: dice(5), most: 10 });
  assert.equal(started.length, said);
  assert.equal(lanes.dropped, 0);
  assert(Math.max(...started.map(comment => comment.lane)) < 4);
});

await check('what stood still goes on where it was', () => {
  const lanes = new Lanes();
  lanes.resize(1, 1000);
  lanes.add({ width: 100 }, 0);
  assert.equal(lanes.next(0).length, 1);
  lanes.shift(60_000);
  lanes.add({ width: 100 }, 60_000);
  assert.equal(lanes.next(60_000).length, 0);
  assert.equal(lanes.next(60_000 + lanes.duration).length, 1);
  lanes.add({ width: 100, gone: true }, 90_000);
  lanes.remove(({ gone }) => gone);
  assert.equal(lanes.next(100_000).length, 0);
});

done();
