/**
 * What operators see: it is told once a second in the room `$baton`, and kept here for the charts.
 *
 * In this order: what comes, the charts, workers, rooms, events, orders, the connection.
 */

import { Baton } from './baton.js';
import { Chart, short } from './charts.js';

/** @param {string} id @returns {any} */
const $ = id => document.getElementById(id);

const SAMPLES_MAX = 900;        // a quarter of an hour
const SEATS_MAX = 6;            // workers that the chart of connections tells apart
const ROOMS_NAMED = 20;         // that are told by name, if there are so many
const REASONS_MAX = 5;          // reasons for closes that are named; the others are "other"

/** How an event, or a state, is shown. Words that are not known are as they are. */
const KINDS = {
  crash: 'bad', 'worker-lost': 'bad', 'given-up': 'bad', 'master-crash': 'bad', 'reload-failed': 'bad', backoff: 'bad',
  recovery: 'good', ready: 'good', reload: 'accent', scale: 'accent', upgrade: 'accent', moving: 'accent', draining: 'accent',
};
const kind = (/** @type {string} */ what) => /** @type {Record<string, string>} */ (KINDS)[what] ?? 'dim';

// ---- What comes: each message is the state of all; what is counted becomes a rate. ----

/** @type {import('./charts.js').Sample[]} */
let samples = [];
/** @type {any} */
let last = null;                // the message before
/** @type {any[]} */
let events = [];
/** Reasons that were named first keep their place. @type {string[]} */
const reasons = [];

/** @param {any} now */
function take(now) {
  // Another baton, or another clock.
  if (last && (now.at_ms <= last.at_ms || now.uptime_s < last.uptime_s)) last = null;
  const seconds = last ? (now.at_ms - last.at_ms) / 1000 : 0;
  const rate = (/** @type {number} */ after, /** @type {number} */ before) => seconds ? Math.max(0, after - (before ?? 0)) / seconds : null;
  const { totals, latency, workers } = now;
  const before = last?.totals;

  /** @type {Record<string, number>} */
  const seats = {};
  for (const { worker, connections } of workers) seats[`worker ${worker}`] = (seats[`worker ${worker}`] ?? 0) + connections;
  // Accepted, or given away by one worker, and not given to another yet.
  if (totals.moving) seats['on the move'] = totals.moving;
  /** @type {Record<string, number | null>} */
  const closes = {};
  for (const [reason, count] of Object.entries(totals.closes)) {
    if (!reasons.includes(reason)) reasons.push(reason);
    const name = reasons.indexOf(reason) < REASONS_MAX ? words(reason) : 'other';
    if (before) closes[name] = (closes[name] ?? 0) + (rate(/** @type {number} */ (count), before.closes[reason]) ?? 0);
  }
  samples.push({
    t: now.at_ms,
    connections: totals.connections,
    seats: Object.keys(seats).length > SEATS_MAX ? { connections: totals.connections } : seats,
    messages: before ? rate(totals.messages_in, before.messages_in) : null,
    deliveries: before ? rate(totals.deliveries, before.deliveries) : null,
    delivery: latency.delivery,
    handoff: latency.handoff,
    closes,
    closed: before ? Object.values(closes).reduce((/** @type {number} */ all, one) => all + (one ?? 0), 0) : null,
  });
  if (samples.length > SAMPLES_MAX) samples = samples.slice(-SAMPLES_MAX);
  events = now.events;
  show(now, seconds);
  last = now;
}

const words = (/** @type {string} */ name) => name.replace(/_/g, ' ');

/** @param {any} now @param {number} seconds since the last one; 0: there is none */
function show(now, seconds) {
  const { totals, master, log, reload } = now;
  $('version').textContent = now.version;
  $('uptime').textContent = age(now.uptime_s);
  $('master').textContent = `pid ${master.pid}, life ${master.life}, ${bytes(master.memory_bytes)}`;
  $('accepted').textContent = totals.accepted.toLocaleString('en');
  $('moved').textContent = totals.moved.toLocaleString('en');
  $('lag').textContent = `${bytes(log.lag_bytes)} of ${bytes(log.size_bytes)}`;
  const gaps = Object.entries(totals.gaps).filter(([, count]) => count);
  $('gaps').textContent = gaps.map(([why, count]) => `${short(/** @type {number} */ (count))} ${why}`).join(', ') || 'none';
  $('said').textContent = now.draining ? 'stopping' : reload.running ? 'reloading' : 'live';
  crew(now.workers, seconds);
  halls(now.rooms, totals.rooms);
  list();
  if (document.activeElement !== $('workers-wanted')) {
    $('workers-wanted').value = new Set(now.workers.map((/** @type {any} */ { worker }) => worker)).size;
  }
  draw();
}

/** @param {number} seconds */
function age(seconds) {
  const [days, hours, minutes] = [seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60].map(Math.floor);
  return days ? `${days} d ${hours} h` : hours ? `${hours} h ${minutes} min` : minutes ? `${minutes} min ${Math.floor(seconds % 60)} s` : `${Math.floor(seconds)} s`;
}

/** @param {number | null} number */
function bytes(number) {
  if (number === null || number === undefined) return '–';
  const [size, unit] = number >= 2 ** 30 ? [number / 2 ** 30, 'GiB'] : number >= 2 ** 20 ? [number / 2 ** 20, 'MiB'] : number >= 2 ** 10 ? [number / 2 ** 10, 'KiB'] : [number, 'B'];
  return `${size.toLocaleString('en', { maximumFractionDigits: size < 10 && unit !== 'B' ? 1 : 0 })} ${unit}`;
}

// ---- The charts. ----

/** @type {number | null} */
let cursor = null;
const point = (/** @type {number | null} */ time) => { cursor = time; draw(); };

/** @param {string} title @param {Omit<ConstructorParameters<typeof Chart>[1], 'title' | 'point'>} options */
const chart = (title, options) => new Chart($('charts').appendChild(document.createElement('section')), { title, point, ...options });

const quantiles = (/** @type {any} */ of) => ({ 'median': of?.p50_ms ?? null, '99 %': of?.p99_ms ?? null });
const charts = [
  chart('Connections', { stack: true, values: ({ seats }) => seats, headline: ({ connections }) => connections }),
  chart('Messages said', { unit: '/s', values: ({ messages }) => ({ messages }), headline: ({ messages }) => messages }),
  chart('Deliveries', { unit: '/s', values: ({ deliveries }) => ({ deliveries }), headline: ({ deliveries }) => deliveries }),
  chart('Delivery takes', { unit: ' ms', values: ({ delivery }) => quantiles(delivery), headline: ({ delivery }) => delivery?.p99_ms ?? null }),
  chart('Hand-off takes', { unit: ' ms', values: ({ handoff }) => quantiles(handoff), headline: ({ handoff }) => handoff?.p99_ms ?? null }),
  chart('Closes, by reason', { unit: '/s', stack: true, values: ({ closes }) => closes, headline: ({ closed }) => closed }),
];

function draw() {
  if (document.hidden) return;
  const span = Number($('span').value) * 1000;
  const to = samples.at(-1)?.t ?? Date.now();
  const from = to - span;
  const marks = events.map(({ at_ms, what }) => ({ t: at_ms, kind: kind(what) })).filter(({ kind }) => kind !== 'dim');
  for (const chart of charts) chart.draw({ samples, from, to, marks, cursor });
  $('strip').replaceChildren(...events.filter(({ at_ms }) => at_ms >= from && at_ms <= to).map(({ at_ms, what }) => {
    const mark = document.createElement('i');
    mark.className = `kind-${kind(what)}`;
    mark.style.left = `${(at_ms - from) / span * 100}%`;
    mark.title = what;
    return mark;
  }));
}

$('span').onchange = draw;
document.addEventListener('visibilitychange', draw);
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);

// ---- Workers, rooms, events. ----

/** @param {any[]} workers @param {number} seconds */
function crew(workers, seconds) {
  const most = Math.max(1, ...workers.map(({ connections }) => connections));
  const before = new Map((last?.workers ?? []).map((/** @type {any} */ row) => [`${row.worker} ${row.guard_pid}`, row]));
  $('workers').replaceChildren(...workers.map(row => {
    const old = before.get(`${row.worker} ${row.guard_pid}`);
    const rate = (/** @type {string} */ name) => old && seconds ? short(Math.max(0, row[name] - old[name]) / seconds) : '–';
    const line = document.createElement('tr');
    const cell = (/** @type {any} */ content) => line.appendChild(document.createElement('td')).append(content);
    cell(`worker ${row.worker}`);
    const state = document.createElement('span');
    state.className = `badge kind-${kind(row.state)}`;
    state.textContent = row.state;
    cell(state);
    cell(row.pid ?? '–');
    cell(row.life);
    cell(age(row.age_s));
    const load = document.createElement('span');
    load.className = 'load';
    load.appendChild(document.createElement('i')).style.width = `${row.connections / most * 100}%`;
    const count = document.createElement('span');
    count.append(load, row.connections.toLocaleString('en'));
    cell(count);
    cell(row.rooms.toLocaleString('en'));
    cell(bytes(row.memory_bytes));
    for (const name of ['messages_in', 'deliveries', 'closes']) cell(rate(name));
    return line;
  }));
}

/** @param {{room: string, count: number}[]} rooms @param {number} all */
function halls(rooms, all) {
  const most = Math.max(1, ...rooms.map(({ count }) => count));
  // Those that nobody is in any more count as well.
  $('rooms-in-all').textContent = rooms.length === 0 ? 'nobody is in a room'
    : rooms.length < ROOMS_NAMED ? '' : `the largest ${ROOMS_NAMED} of ${all.toLocaleString('en')}`;
  $('rooms').replaceChildren(...rooms.map(({ room, count }) => {
    const line = document.createElement('li');
    line.appendChild(document.createElement('i')).style.width = `${count / most * 100}%`;
    const name = line.appendChild(document.createElement('span'));
    name.textContent = name.title = room;
    line.appendChild(document.createElement('b')).textContent = count.toLocaleString('en');
    return line;
  }));
}

let listed = -1;
function list() {
  const newest = events.at(-1)?.n ?? -1;
  if (newest === listed) return;
  listed = newest;
  $('events').replaceChildren(...[...events].reverse().map(({ at_ms, what, worker, text }) => {
    const line = document.createElement('li');
    line.className = `kind-${kind(what)}`;
    const time = line.appendChild(document.createElement('time'));
    time.dateTime = new Date(at_ms).toISOString();
    time.textContent = new Date(at_ms).toLocaleTimeString('en', { hourCycle: 'h23' });
    line.appendChild(document.createElement('b')).textContent = words(what) + (worker ? ` ${worker}` : '');
    line.appendChild(document.createElement('span')).textContent = text;
    return line;
  }));
}

// ---- Orders, for who has a token. ----

/** Storage may be forbidden; then nothing is remembered. @param {string} [value] */
function remembered(value) {
  try {
    return value === undefined ? sessionStorage.getItem('token') : sessionStorage.setItem('token', value);
  } catch {
    return null;
  }
}
let token = remembered() || '';

/** @param {string} text @param {'good' | 'bad'} [kind] */
function note(text, kind = 'good') {
  $('note').textContent = text;
  $('note').dataset.kind = kind;
}

/** @param {string} what @param {object} body */
async function order(what, body) {
  permit(false);
  note(`${what} …`);
  const begin = performance.now();
  try {
    const answer = await fetch(`/api/v1/${what}`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${token}`, 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
    });
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(said.error?.message ?? said.message ?? `${answer.status} ${answer.statusText}`);
    note(`${what}: done, in ${Math.round(performance.now() - begin).toLocaleString('en')} ms`);
  } catch (/** @type {any} */ error) {
    note(`${what}: ${error.message}`, 'bad');
  } finally {
    permit(Boolean(token));
  }
}

/** @param {boolean} may */
function permit(may) {
  for (const id of ['reload', 'workers-wanted', 'scale']) {
    $(id).disabled = !may;
    $(id).title = token ? '' : 'this needs a token';
  }
}

$('reload').onclick = () => order('reload', {});
$('controls').onsubmit = (/** @type {Event} */ event) => {
  event.preventDefault();
  order('scale', { workers: Number($('workers-wanted').value) });
};
$('sign-in-button').onclick = () => { $('sign-in').returnValue = ''; $('sign-in').showModal(); };
$('sign-in').onclose = () => {
  const what = $('sign-in').returnValue;
  if (!what) return;
  token = what === 'use' ? $('token').value.trim() : '';
  $('token').value = '';
  remembered(token);
  note('');
  permit(Boolean(token));
  connect();
};

// ---- The connection. ----

/** @type {Baton | undefined} */
let baton;

/** With this token; if it is none, without: who is on this machine may look on all the same. */
function connect(shown = token) {
  baton?.close();
  const mine = baton = new Baton(shown ? { token: shown } : {});
  mine.on('state', state => {
    if (mine !== baton) return;
    if (shown && ['unauthorized', 'expired'].includes(mine.closed?.code ?? '')) {
      note(`This token is not known here: ${mine.closed?.message}`, 'bad');
      return connect('');
    }
    $('state').dataset.state = state;
    $('said').textContent = { connecting: 'connecting', open: 'connected', waiting: 'disconnected', closed: mine.closed?.message }[/** @type {'open'} */ (state)] ?? '';
  });
  const room = mine.join('$baton');
  room.on('message', ({ data }) => take(data));
  room.on('refused', error => mine === baton && !mine.closed && note(`No figures: ${error.message}`, 'bad'));
}

permit(Boolean(token));
connect();
draw();
