// /baton.js, in node and in a browser: on a line that is cut at random, against servers that send it
// away, and with tokens that expire.
//
//   with-baton --config tests/clients/baton-js.toml --key k node tests/clients/baton-js.mjs
//
// CHROMIUM   the browser to run (default /usr/bin/chromium)

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { chromium } from 'playwright-core';
import WebSocket, { WebSocketServer } from 'ws';
import { Proxy } from './proxy.mjs';
import { check, done, served, url } from './tap.mjs';
import { token } from './token.mjs';

const { BATON_URL, BATON_RUN_DIR, BATON_MASTER, CHROMIUM = '/usr/bin/chromium' } = process.env;

// What is tested is what is served.
const { Baton } = await served('/baton.js');

/** A client that soon notices what is wrong, and soon comes back. */
const HASTY = { WebSocket, heartbeat: 300, timeout: 500, backoff: [20, 200] };

const run = promisify(execFile);
const order = async (...args) => (await run(BATON_MASTER, [...args, '--run-dir', BATON_RUN_DIR])).stdout;
const status = async () => JSON.parse(await order('status', '--json'));

/** Waits for a condition. What it throws meanwhile is the reason if it never comes true. */
async function until(what, condition, ms = 20_000) {
  const end = Date.now() + ms;
  for (;;) {
    let reason = '';
    try {
      if (await condition()) return;
    } catch (error) {
      reason = `: ${error.message}`;
    }
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}${reason}`);
    await sleep(20);
  }
}

/** The next event of this name. */
const event = (of, name) => new Promise(resolve => { const off = of.on(name, value => { off(); resolve(value); }); });

/** What a room's listener sees. This runs in the browser, too. */
function view(baton, name, options) {
  const seen = { messages: [], gaps: [], lost: [], refused: null };
  const room = baton.join(name, options);
  room.on('message', ({ pos, data }) => seen.messages.push([pos, data.who, data.n]));
  room.on('gap', gap => seen.gaps.push(gap));
  room.on('lost', lost => seen.lost.push(lost));
  room.on('refused', error => seen.refused = error);
  return { baton, room, seen };
}

/** Numbered messages of three users over bad lines; fails unless each is in the log once. */
async function writes(proxy, room, each, pause) {
  const positions = await Promise.all(['ann', 'ben', 'eva'].map(async who => {
    const baton = new Baton({ url: proxy.url('/rooms'), token: () => token(who), ...HASTY });
    const sent = [];
    for (let n = 0; n < each; n++) {
      sent.push(baton.send(room, { who, n }));
      sent.at(-1).catch(() => {});
      await sleep(Math.random() * 2 * pause);
    }
    const got = await Promise.all(sent);
    baton.close();
    return got;
  }));
  const all = positions.flat();
  assert.equal(new Set(all).size, all.length, 'no two messages have one position');
  return all.length;
}

/** Everything that may happen to a line, until it is over. */
async function rough(proxy, over) {
  const events = ['cut', 'cut', 'silence', 'reset'];
  while (!over.aborted) {
    await sleep(50 + Math.random() * 250);
    if (Math.random() < 0.15) {
      proxy.refuse(true);
      proxy.reset();
      await sleep(200);
      proxy.refuse(false);
    } else {
      proxy[events[Math.floor(Math.random() * events.length)]](0.5);
    }
  }
}

/** Reloads, and kills workers' brains. */
async function operate(over) {
  for (let n = 0; !over.aborted; n++) {
    if (n % 2) await order('reload');
    else {
      const { pid } = (await status()).workers[n / 2 % 2];
      // One that is just away comes again by itself.
      if (pid) process.kill(pid, 'SIGKILL');
    }
    await sleep(700);
  }
}

/** Are these all, once each, each user's in order? */
function isWhole({ messages, gaps, lost, refused }, total, reference = messages) {
  assert.deepEqual([gaps, lost, refused], [[], [], null], 'nothing was said to be missing');
  assert.equal(new Set(messages.map(([pos]) => pos)).size, messages.length, 'nothing comes twice');
  assert.deepEqual(messages, reference.slice(0, messages.length), 'all see one order');
  const next = {};
  for (const [, who, n] of messages) {
    assert.equal(n, next[who] ?? 0, `the next of ${who}`);
    next[who] = n + 1;
  }
  return messages.length === total;
}

await check('cut at random while workers are reloaded and killed, nothing is missed and nothing comes twice', async () => {
  const proxy = await Proxy.to(BATON_URL);
  const still = view(new Baton({ url: url('/rooms'), WebSocket }), 'kept');
  const viewers = Array.from({ length: 6 }, () => view(new Baton({ url: proxy.url('/rooms'), ...HASTY }), 'kept'));
  await Promise.all([still, ...viewers].map(({ room }) => room.ready));
  const over = new AbortController();
  const trouble = [rough(proxy, over.signal), operate(over.signal)];
  const total = await writes(proxy, 'kept', 300, 20).finally(() => over.abort());
  await Promise.all(trouble);
  await until('all is there', () => isWhole(still.seen, total));
  for (const { seen } of viewers) await until('all is there', () => isWhole(seen, total, still.seen.messages));
  const reconnects = viewers.map(({ baton }) => baton.reconnects);
  assert(Math.min(...reconnects) >= 3, `it was a bad line: ${reconnects} reconnects`);
  assert.equal(still.baton.reconnects, 0, 'reloads and kills cut off nobody');
  for (const { baton } of [still, ...viewers]) baton.close();
  proxy.close();
}, 90);

await check('what is not retained is said to be lost', async () => {
  const proxy = await Proxy.to(BATON_URL);
  const far = view(new Baton({ url: proxy.url('/rooms'), ...HASTY }), 'not kept');
  const near = view(new Baton({ url: url('/rooms'), WebSocket }), 'not kept');
  await Promise.all([far.room.ready, near.room.ready]);
  await near.room.send({ n: 1 });
  await until('it is heard', () => far.seen.messages.length === 1);
  const since = far.room.pos;
  proxy.refuse(true);
  proxy.reset();
  const pos = await near.room.send({ n: 2 });
  proxy.refuse(false);
  await until('it is said', () => far.seen.lost.length === 1);
  assert.deepEqual(far.seen.lost, [{ since, pos }]);
  await near.room.send({ n: 3 });
  await until('it goes on', () => far.seen.messages.length === 2);
  far.baton.close();
  near.baton.close();
  proxy.close();
});

await check('who has no name is told what may be published or not, and it is never published twice', async () => {
  const proxy = await Proxy.to(BATON_URL);
  const viewer = view(new Baton({ url: url('/rooms'), WebSocket }), 'kept anonymous');
  const baton = new Baton({ url: proxy.url('/rooms'), ...HASTY });
  await Promise.all([viewer.room.ready, event(baton, 'hello')]);
  await baton.send('kept anonymous', { who: 'x', n: 0 });
  proxy.silence();
  await assert.rejects(baton.send('kept anonymous', { who: 'x', n: 1 }), { code: 'unconfirmed' });
  await baton.send('kept anonymous', { who: 'x', n: 2 });
  await until('it comes', () => viewer.seen.messages.length === 2);
  assert.deepEqual(viewer.seen.messages.map(([, , n]) => n), [0, 2]);
  baton.close();
  viewer.baton.close();
  proxy.close();
});

await check('what waits has a bound, and an end', async () => {
  const proxy = await Proxy.to(BATON_URL);
  proxy.refuse(true);
  const baton = new Baton({ url: proxy.url('/rooms'), queue: 3, ...HASTY });
  const waiting = [1, 2, 3].map(n => baton.send('r', n, { patience: n === 1 ? 100 : undefined }));
  await assert.rejects(baton.send('r', 4), { code: 'full' });
  await assert.rejects(waiting[0], { code: 'unsent' });
  proxy.refuse(false);
  await Promise.all(waiting.slice(1));
  await assert.rejects(baton.send('r', 'x'.repeat(70_000)), { code: 'too_large' });
  await assert.rejects(baton.send('r', undefined), { code: 'bad_request' });
  const late = baton.send('r', 5);
  baton.close();
  await assert.rejects(late, { code: /unconfirmed|unsent/ });
  await assert.rejects(baton.send('r', 6), { code: 'closed' });
  proxy.close();
});

await check('who is here stays true', async () => {
  const proxy = await Proxy.to(BATON_URL);
  const watcher = view(new Baton({ url: proxy.url('/rooms'), token: token('watcher'), ...HASTY }), 'here', { presence: true });
  await watcher.room.ready;
  const is = (...users) => until(`here are ${users}`, () => {
    assert.deepEqual([...watcher.room.users].sort(), users.sort());
    return watcher.room.count === users.length && watcher.room.distinct === users.length;
  });
  await is('watcher');
  const others = ['u1', 'u2', 'u3'].map(user => view(new Baton({ url: url('/rooms'), token: token(user), WebSocket }), 'here'));
  await is('watcher', 'u1', 'u2', 'u3');
  proxy.refuse(true);
  proxy.reset();
  others[0].baton.close();
  await others[1].room.leave();
  proxy.refuse(false);
  await is('watcher', 'u3');
  const { users, whole } = await watcher.room.who();
  assert.deepEqual([users.sort(), whole], [['u3', 'watcher'], true]);
  for (const { baton } of [watcher, ...others]) baton.close();
  proxy.close();
});

await check('history, direct messages, and what is refused', async () => {
  const [ann, ben] = ['ann', 'ben'].map(user => new Baton({ url: url('/rooms'), token: token(user), WebSocket }));
  const room = ann.join('kept history');
  const sent = [];
  for (let n = 0; n < 5; n++) sent.push(await room.send(n));
  const page = await room.history({ before: sent[4], limit: 3 });
  assert.deepEqual(page.map(({ pos, from, data }) => [pos, from, data]), [1, 2, 3].map(n => [sent[n], 'ann', n]));
  const late = ben.join('kept history', { since: sent[2] });
  const seen = [];
  late.on('message', ({ data }) => seen.push(data));
  assert.equal((await late.ready).recovered, true);
  assert.deepEqual(seen, [3, 4]);
  const direct = event(ben, 'direct');
  await ben.ping();
  const sender = new Baton({ url: url('/rooms'), token: token('server', { '*': ['join', 'send'], '@*': ['send'] }), WebSocket });
  await assert.rejects(sender.send('$reserved', 1), { code: /bad_request|forbidden/ });
  const refused = sender.join('$reserved');
  await assert.rejects(refused.ready, { code: /bad_request|forbidden/ });
  await sender.send('@ben', 'psst');
  assert.equal((await direct).data, 'psst');
  for (const baton of [ann, ben, sender]) baton.close();
});

await check('moderators act, and everybody is told', async () => {
  const everything = { '*': ['join', 'send', 'presence', 'history', 'moderate'] };
  const [mod, ann] = [['mod', everything], ['ann']].map(who => new Baton({ url: url('/rooms'), token: token(...who), WebSocket }));
  const theirs = mod.join('kept moderated');
  let mine = ann.join('kept moderated');
  const told = [];
  for (const name of ['deleted', 'cleared', 'muted', 'unmuted', 'banned', 'unbanned', 'kicked']) {
    theirs.on(name, message => told.push([name, message[name]]));
  }
  await Promise.all([theirs.ready, mine.ready]);
  const pos = await mine.send('rude');
  await assert.rejects(mine.delete(pos), { code: 'forbidden' });
  await theirs.delete(pos);
  await theirs.mute('ann', 60_000);
  await assert.rejects(mine.send('?'), error => error.code === 'forbidden' && error.retryAfterMs > 50_000);
  await theirs.unmute('ann');
  const last = await mine.send('sorry');
  await theirs.clear();
  assert.deepEqual((await theirs.history()).filter(message => 'data' in message), []);
  let refused = event(mine, 'refused');
  await theirs.kick('ann');
  assert.equal((await refused).code, 'kicked');
  mine = ann.join('kept moderated');
  await mine.ready;
  refused = event(mine, 'refused');
  await theirs.ban('ann', 60_000);
  assert.equal((await refused).code, 'banned');
  await assert.rejects(ann.join('kept moderated').ready, { code: 'forbidden' });
  await theirs.unban('ann');
  await ann.join('kept moderated').ready;
  await until('all is told', () => told.length >= 7);
  assert.deepEqual(told, [['deleted', pos], ['muted', 'ann'], ['unmuted', 'ann'], ['cleared', last],
    ['kicked', 'ann'], ['banned', 'ann'], ['unbanned', 'ann']]);
  for (const baton of [mod, ann]) baton.close();
});

await check('what is held back is said by its author when a moderator lets it pass, and once', async () => {
  const everything = { '*': ['join', 'send', 'presence', 'history', 'moderate'] };
  const [mod, ann] = [['mod', everything], ['ann']].map(who => new Baton({ url: url('/rooms'), token: token(...who), WebSocket }));
  const [theirs, mine] = [mod, ann].map(baton => baton.join('kept moderated'));
  await Promise.all([theirs.ready, mine.ready]);
  const [shown, heard] = [event(theirs, 'held'), event(mine, 'message')];
  assert.equal(await mine.send('what a turnip'), null);
  const { held } = await shown;
  assert.deepEqual([held.from, held.data], ['ann', 'what a turnip']);
  await assert.rejects(mine.release(held), { code: 'forbidden' });
  const { pos } = await theirs.release(held);
  assert.equal((await theirs.release(held)).pos, pos);
  assert.deepEqual(await heard, { room: 'kept moderated', pos, from: 'ann', data: 'what a turnip' });
  for (const baton of [mod, ann]) baton.close();
});

await check('what one may do in a room is known, and known anew with another token', async () => {
  const rights = ['join', 'presence', 'history', 'send'];
  let asked = 0;
  // The second allows to moderate, and no more to send in the other room.
  const next = () => ++asked === 1 ? token('ann', { '*': rights }, 2)
    : token('ann', { kept: [...rights, 'moderate'], other: ['join'] });
  const baton = new Baton({ url: url('/rooms'), token: next, ...HASTY });
  const [room, other] = ['kept', 'other'].map(name => baton.join(name));
  const seen = [];
  room.on('message', ({ data }) => seen.push(data));
  const first = room.may;
  const changes = Promise.all([room, other].map(room => event(room, 'may')));
  await Promise.all([room.ready, other.ready]);
  const all = [first, room.may, other.may].map(may => [...may].sort().join());
  assert.deepEqual(all, Array(3).fill('history,presence,send'));
  await room.send('before');
  const told = await changes;
  assert.deepEqual([...room.may].sort(), ['history', 'moderate', 'presence', 'send']);
  assert.deepEqual([...other.may], []);
  assert.deepEqual(told, [room.may, other.may]);
  await room.send('after');
  await baton.ping();
  assert.deepEqual(seen.slice(-2), ['before', 'after']);
  assert.equal(baton.reconnects, 0);
  baton.close();
  const read = new Baton({ url: url('/rooms'), token: token('ben', { '*': ['join', 'moderate'] }), WebSocket });
  const theirs = read.join('kept');
  await theirs.ready;
  assert.deepEqual([...theirs.may], ['moderate']);
  read.close();
});

await check('a token is renewed before it expires, and the connection stays', async () => {
  let asked = 0;
  const baton = new Baton({ url: url('/rooms'), token: async () => { asked++; return token('ann', undefined, asked > 2 ? 60 : 2); }, ...HASTY });
  const room = baton.join('r');
  await room.ready;
  await until('the third token', () => asked === 3);
  await sleep(3000);
  await room.send(1);
  assert.equal(baton.reconnects, 0);
  baton.close();
  // Who has no other one is out.
  const fixed = new Baton({ url: url('/rooms'), token: token('ann', undefined, 1), ...HASTY });
  await until('it is over', () => fixed.closed, 15_000);
  assert.equal(fixed.closed.code, 'expired');
});

/** A server that says hello, and then what it is told to. */
async function server(welcome) {
  const wss = new WebSocketServer({ port: 0, host: '127.0.0.1' });
  await once(wss, 'listening');
  let number = 0;
  const times = [];
  wss.on('connection', socket => {
    times.push(performance.now());
    socket.send('{"hello":{"cid":"c1","worker":1}}');
    welcome(socket, number++);
  });
  return { wss, times, url: `ws://127.0.0.1:${wss.address().port}/rooms` };
}

await check('it comes back, or not, and when, as the server says', async () => {
  const cases = [
    // close code, what was said before, options; closed for, or [least, most] ms until it is back
    [4003, null, {}, 'kicked'],
    [4004, null, {}, 'banned'],
    [4000, null, {}, 'unauthorized'],
    [4001, null, { token: 'x' }, 'expired'],
    [4001, null, { token: () => 'x' }, [0, 2000]],
    [4200, null, { backoff: [60_000, 60_000] }, [0, 2000]],
    [4100, null, {}, [4900, 8000]],
    [4101, null, {}, [4900, 8000]],
    [1001, { bye: { retry_after_ms: 1200 } }, {}, [1150, 4000]],
    [1006, null, {}, [0, 2000]],
  ];
  await Promise.all(cases.map(async ([code, said, options, expected]) => {
    const { wss, times, url } = await server((socket, number) => {
      if (number) return;
      if (said) socket.send(JSON.stringify(said));
      code === 1006 ? socket.terminate() : socket.close(code);
    });
    const baton = new Baton({ url, ...HASTY, ...options });
    if (typeof expected === 'string') {
      await until(`${code} is final`, () => baton.closed);
      assert.equal(baton.closed.code, expected);
      await sleep(500);
      assert.equal(times.length, 1, `${code}: it came back`);
    } else {
      await until(`it comes back after ${code}`, () => times.length > 1);
      const waited = times[1] - times[0];
      assert(waited >= expected[0] && waited <= expected[1], `${code}: ${waited} ms`);
    }
    baton.close();
    wss.close();
  }));
});

await check('a token that is refused is not shown for ever', async () => {
  const { wss, times, url } = await server(socket => socket.close(4000));
  const shown = [];
  const baton = new Baton({ url, token: () => (shown.push(1), 'x'), ...HASTY });
  await until('it gives up', () => baton.closed);
  assert.deepEqual([baton.closed.code, times.length, shown.length], ['unauthorized', 2, 2]);
  wss.close();
});

await check('what is too much for the moment is sent again when the server says', async () => {
  const heard = [];
  const { wss, url } = await server(socket => socket.on('message', text => {
    const { id, key, data, ping } = JSON.parse(text);
    if (ping) return socket.send(JSON.stringify({ id, ok: { worker: 1, pid: 1, life: 1 } }));
    heard.push([performance.now(), key, data]);
    socket.send(JSON.stringify(heard.length === 1 ? { id, error: { code: 'rate', message: 'x', retry: true, retry_after_ms: 700 } }
      : data === 'never' ? { id, error: { code: 'forbidden', message: 'x', retry: false, retry_after_ms: 9000 } }
      : { id, ok: { pos: `e1:${heard.length}` } }));
  }));
  const baton = new Baton({ url, ...HASTY });
  assert.equal(await baton.send('r', 'later'), 'e1:2');
  const [[first, key], [second, again]] = heard;
  assert(second - first >= 690, `after ${second - first} ms`);
  assert.equal(again, key);
  await assert.rejects(baton.send('r', 'never'), { code: 'forbidden', retryAfterMs: 9000 });
  baton.close();
  wss.close();
});

await check('sent away when baton is stopped, it waits as it was told, and finds the next one', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'baton-js-'));
  const other = (...args) => run(BATON_MASTER, [...args, '--run-dir', dir]);
  const start = async () => {
    await other('start', '--workers', '2', '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0');
    const { listen } = JSON.parse((await other('status', '--json')).stdout);
    return new URL(`http://${listen.find(({ role }) => role === 'public').addr}`);
  };
  try {
    const proxy = await Proxy.to(await start());
    const clients = Array.from({ length: 5 }, () => new Baton({ url: proxy.url('/rooms'), WebSocket }));
    const rooms = clients.map(baton => baton.join('r'));
    await Promise.all(rooms.map(({ ready }) => ready));
    const told = clients.map(async baton => {
      const { retry_after_ms } = await event(baton, 'bye');
      return [performance.now(), retry_after_ms];
    });
    const lost = rooms.map(room => event(room, 'lost'));
    const back = clients.map(async baton => { await event(baton, 'bye'); await event(baton, 'hello'); return performance.now(); });
    await other('stop');
    proxy.to = await start();
    for (const [i, [at, wait]] of (await Promise.all(told)).entries()) {
      const waited = await back[i] - at;
      assert(waited >= wait - 20, `told to wait ${wait} ms, back after ${waited}`);
    }
    await Promise.all(lost);
    for (const baton of clients) baton.close();
    proxy.close();
  } finally {
    await other('stop').catch(() => {});
    await rm(dir, { recursive: true, force: true });
  }
}, 60);

// ---- the same in a browser ----

// Chromium's sandbox refuses to run as root.
const browser = await chromium.launch({ executablePath: CHROMIUM, args: process.getuid() === 0 ? ['--no-sandbox'] : [] });

/** A page that comes through the proxy, as its connections do: else its origin would be another. */
async function page(proxy) {
  const page = await browser.newPage();
  await page.goto(proxy.url('/healthz', 'http'));
  return page;
}

await check('in a browser, cut at random, nothing is missed and nothing comes twice', async () => {
  const proxy = await Proxy.to(BATON_URL);
  const still = view(new Baton({ url: url('/rooms'), WebSocket }), 'kept too');
  await still.room.ready;
  const tab = await page(proxy);
  await tab.evaluate(async view => {
    const { Baton } = await import('/baton.js');
    const baton = new Baton({ heartbeat: 300, timeout: 500, backoff: [20, 200] });
    window.viewer = new Function(`return ${view}`)()(baton, 'kept too');
    await window.viewer.room.ready;
  }, view.toString());
  const over = new AbortController();
  const trouble = [rough(proxy, over.signal), operate(over.signal)];
  const total = await writes(proxy, 'kept too', 100, 30).finally(() => over.abort());
  await Promise.all(trouble);
  await until('all is there', async () => isWhole(await tab.evaluate(() => window.viewer.seen), total, still.seen.messages));
  const reconnects = await tab.evaluate(() => window.viewer.baton.reconnects);
  assert(reconnects >= 3, `it was a bad line: ${reconnects} reconnects`);
  await tab.close();
  still.baton.close();
  proxy.close();
}, 60);

await check('in a browser, going online connects at once, and going offline is looked into', async () => {
  const proxy = await Proxy.to(BATON_URL);
  const tab = await page(proxy);
  const has = state => tab.waitForFunction(state => window.baton.state === state, state);
  await tab.evaluate(async () => {
    const { Baton } = await import('/baton.js');
    window.baton = new Baton({ timeout: 500, backoff: [100_000_000, 100_000_000] });
  });
  await has('open');
  proxy.silence();
  await tab.evaluate(() => dispatchEvent(new Event('offline')));
  await has('waiting');
  await tab.evaluate(() => dispatchEvent(new Event('online')));
  await has('open');
  await tab.close();
  proxy.close();
});

await browser.close();
done();
