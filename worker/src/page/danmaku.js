/**
 * The page at `/`: live comments that fly over a stage, in several rooms.
 *
 * In this order: rooms (tabs), what comes, the log and who is here, moderation, what is said, the
 * connection. All that others have sent is text and stays text.
 */

import { Baton } from './baton.js';
import { Stage } from './stage.js';

/** @param {string} id @returns {any} */
const $ = id => document.getElementById(id);
const PALETTE = {
  white: '#ffffff', yellow: '#ffe14d', orange: '#ffa24d', pink: '#ff8ac2', violet: '#b9a3ff', blue: '#6ec8ff', green: '#7bea8e',
};
const COLORS = Object.values(PALETTE);
const LOG_MAX = 100;            // lines of each room
const NAMES_MAX = 300;          // users that are listed
const CHATTY = 5;               // comments a second from which on they are not read out any more

const stage = new Stage($('stage'));

/** Storage may be forbidden; then nothing is remembered. @param {Storage} storage @param {string} key @param {string} [value] */
function remember(storage, key, value) {
  try {
    return value === undefined ? storage.getItem(key) : storage.setItem(key, value);
  } catch {
    return null;
  }
}

// ---- Rooms: each is a tab; the one that is shown is the fragment of the URL, so that it can be shared. ----

/**
 * @typedef {object} Tab
 * @property {string} name
 * @property {import('./baton.js').Room} room
 * @property {Line[]} lines
 * @property {number} unread
 * @property {HTMLElement} element
 * @property {string} closed why nothing comes any more, if so
 * @property {number} muted until when (`Date.now()`) this user is
 */

/** @type {Map<string, Tab>} */
const tabs = new Map();
/** @type {Tab} */
let shown;

function roomInUrl() {
  const fragment = location.hash.slice(1);
  try {
    return decodeURIComponent(fragment) || 'lobby';
  } catch {
    return fragment;            // a stray % is part of the name
  }
}

const goTo = (/** @type {string} */ name) => { location.hash = encodeURIComponent(name); };

/** @param {string} name */
function openTab(name) {
  const element = document.createElement('span');
  element.className = 'room';
  element.setAttribute('role', 'presentation');
  const button = element.appendChild(document.createElement('button'));
  button.type = 'button';
  button.setAttribute('role', 'tab');
  button.setAttribute('aria-controls', 'theatre');
  button.textContent = button.title = name;
  button.onclick = () => goTo(name);
  const unread = element.appendChild(document.createElement('span'));
  unread.className = 'unread';
  unread.hidden = true;
  const leave = element.appendChild(document.createElement('button'));
  leave.className = 'leave';
  leave.type = 'button';
  leave.textContent = '×';
  leave.setAttribute('aria-label', `leave ${name}`);
  leave.onclick = () => closeTab(name);
  $('tabs').append(element);
  const tab = /** @type {Tab} */ (/** @type {Partial<Tab>} */ ({ name, lines: [], unread: 0, element, closed: '', muted: 0 }));
  tabs.set(name, tab);
  listen(tab);
  return tab;
}

/** @param {string} name */
function closeTab(name) {
  const tab = tabs.get(name);
  if (!tab) return;
  tab.room.leave();
  tab.element.remove();
  tabs.delete(name);
  if (tab === shown) goTo([...tabs.keys()].at(-1) ?? 'lobby');
  // The last one stays, or comes again.
  if (tabs.size === 0) show();
  keepTabs();
}

const keepTabs = () => remember(sessionStorage, 'rooms', JSON.stringify([...tabs.keys()]));

/** Shows the room that the URL names. */
function show() {
  const name = roomInUrl();
  if (shown?.name === name && tabs.has(name)) return;
  shown = tabs.get(name) ?? openTab(name);
  shown.unread = 0;
  keepTabs();
  document.title = `${name} · baton`;
  for (const tab of tabs.values()) {
    const button = /** @type {HTMLElement} */ (tab.element.querySelector('[role=tab]'));
    button.setAttribute('aria-selected', String(tab === shown));
    button.tabIndex = tab === shown ? 0 : -1;
    badge(tab);
  }
  shown.element.scrollIntoView?.({ block: 'nearest', inline: 'nearest' });
  stage.clear();
  counted = stage.counts;
  render();
}

/** The shown room, anew. */
function render() {
  $('empty').hidden = shown.lines.some(line => !line.event);
  fresh = [];
  $('log').replaceChildren(...shown.lines.map(element));
  people();
  permit();
}

/** @param {Tab} tab */
function badge(tab) {
  const badge = /** @type {HTMLElement} */ (tab.element.querySelector('.unread'));
  badge.hidden = tab.unread === 0;
  badge.textContent = tab.unread > 99 ? '99+' : String(tab.unread);
}

/** Arrows go from tab to tab. @param {KeyboardEvent} event */
function arrows(event) {
  const list = /** @type {HTMLElement} */ (event.currentTarget);
  const all = /** @type {HTMLElement[]} */ ([...list.querySelectorAll('[role=tab]')]);
  const at = all.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (at < 0 || !step) return;
  event.preventDefault();
  const next = all[(at + step + all.length) % all.length];
  next.click();
  next.focus();
}

addEventListener('hashchange', show);
$('tabs').onkeydown = arrows;
$('panels').onkeydown = arrows;
$('enter').onsubmit = (/** @type {Event} */ event) => {
  event.preventDefault();
  const name = $('room').value.trim();
  $('room').value = '';
  if (!name) return;
  goTo(name);
  $('text').focus();
};

// ---- What comes. ----

/** @type {Map<string, string>} the last nickname of each user */
const nicks = new Map();
/** @type {Set<string>} who this page was, on one connection or another */
const me = new Set();

/** Joins the tab's room, with the connection that there is now. @param {Tab} tab @param {boolean} [presence] */
function listen(tab, presence = true) {
  const room = tab.room = baton.join(tab.name, { presence, since: tab.room?.pos ?? undefined });
  let first = tab.lines.length === 0;
  tab.closed = '';
  room.on('message', message => comment(tab, message));
  room.on('gap', ({ why }) => tell(tab, why === 'sampled' ? 'more was said than can be shown' : `some comments were left out (${why})`));
  room.on('lost', () => tell(tab, 'comments may have been missed meanwhile'));
  room.on('presence', () => tab === shown && soon(people));
  room.on('joined', () => {
    // What one may do here is known now, and may be something else than before.
    if (tab === shown) render();
    if (first) past(tab);
    first = false;
  });
  room.on('may', () => tab === shown && render());
  room.on('refused', error => {
    // Who may not see who is here may be here all the same.
    if (presence && error.code === 'forbidden') return listen(tab, false);
    tab.closed = `Cannot enter this room: ${error.message}`;
    tell(tab, tab.closed);
    if (tab === shown) {
      note(tab.closed);
      permit();
    }
  });
  room.on('deleted', ({ deleted }) => vanish(tab, line => line.pos === deleted));
  room.on('cleared', ({ cleared }) => {
    vanish(tab, line => line.pos !== null && !isBehind(line.pos, cleared));
    tell(tab, 'a moderator has cleared the room');
  });
  room.on('muted', ({ muted, until_ms }) => {
    tell(tab, `${called(muted)} may not speak${till(until_ms)}`);
    if (me.has(muted)) tab.muted = until_ms ?? Infinity;
    permit();
  });
  room.on('unmuted', ({ unmuted }) => {
    tell(tab, `${called(unmuted)} may speak again`);
    if (me.has(unmuted)) tab.muted = 0;
    permit();
  });
  room.on('banned', ({ banned, until_ms }) => tell(tab, `${called(banned)} is banned from this room${till(until_ms)}`));
  room.on('unbanned', ({ unbanned }) => tell(tab, `${called(unbanned)} may come back`));
  room.on('kicked', ({ kicked }) => tell(tab, `${called(kicked)} was put out of this room`));
  room.on('held', ({ held }) => keep(tab, {
    ...happened(`held back, from ${called(held.from)}: ${worded(held).text}`),
    release: () => room.release(held),
  }));
}

/** @param {string} user */
const called = user => me.has(user) ? 'you' : nicks.has(user) ? `${nicks.get(user)} (${user})` : user;

/** @param {number} [ms] */
const till = ms => ms ? ` until ${new Date(ms).toLocaleTimeString()}` : '';

/** Is `pos` behind `other`? They are of one room; another epoch is a later one. @param {string} pos @param {string} other */
function isBehind(pos, other) {
  const [[epoch, offset], [otherEpoch, otherOffset]] = [pos, other].map(pos => pos.split(':'));
  return epoch !== otherEpoch || Number(offset) > Number(otherOffset);
}

/** @param {any} message */
function worded({ from, data }) {
  const text = typeof data?.text === 'string' ? data.text : JSON.stringify(data);
  const nick = typeof data?.nick === 'string' && data.nick.trim() || from;
  return { text: text.slice(0, 1000), nick: nick.slice(0, 30) };
}

/** @param {Tab} tab @param {any} message */
function comment(tab, message) {
  const { pos, from, data } = message;
  const { text, nick } = worded(message);
  const own = me.has(from);
  if (nicks.size > 5000) nicks.clear();
  if (nick !== from) nicks.set(from, nick);
  keep(tab, { pos, from, nick, text, own, event: false });
  if (tab !== shown) {
    if (tab.unread++ < 100) soon(() => badge(tab));
    return;
  }
  $('empty').hidden = true;
  const color = COLORS.includes(data?.color) ? data.color : PALETTE.white;
  stage.add({ pos, nick, text: text.slice(0, 200), color, own });
}

/** What was said before, as far as it is retained, goes into the log only. @param {Tab} tab */
async function past(tab) {
  const messages = await tab.room.history({ limit: 50 }).catch(() => []);
  const known = new Set(tab.lines.map(line => line.pos));
  const lines = messages.filter(message => 'data' in message && !known.has(message.pos))
    .map(message => ({ pos: message.pos, from: message.from, ...worded(message), own: me.has(message.from), event: false }));
  if (lines.length === 0) return;
  tab.lines = [...lines, ...tab.lines].slice(-LOG_MAX);
  if (tab !== shown) return;
  fresh = [];
  $('empty').hidden = true;
  $('log').replaceChildren(...tab.lines.map(element));
}

/** @type {Set<() => void>} */
const due = new Set();

/** Does it once, in a while, however often it is called for. @param {() => void} what */
function soon(what) {
  // To paint a list again and again takes longer than all else, and nobody reads that fast.
  if (due.size === 0) setTimeout(() => { for (const what of due) what(); due.clear(); }, chatty ? 500 : 100);
  due.add(what);
}
let chatty = false;             // more is said than anybody reads

// How many of the shown room's comments find no place on the stage.
let counted = stage.counts;
setInterval(() => {
  const { shown, dropped } = stage.counts;
  const [flown, out] = [shown - counted.shown, dropped - counted.dropped];
  counted = { shown, dropped };
  $('left-out').hidden = out === 0;
  $('left-out').textContent = `${flown} of ${flown + out} comments a second find a lane`;
  // Nobody can listen to that many.
  chatty = flown + out > CHATTY;
  $('log').setAttribute('aria-live', chatty ? 'off' : 'polite');
}, 1000);

$('pause').onclick = () => {
  const paused = $('pause').getAttribute('aria-pressed') !== 'true';
  $('pause').setAttribute('aria-pressed', String(paused));
  $('pause').textContent = paused ? 'paused' : 'pause';
  stage.pause(paused);
};

// ---- The log: the latest comments as a list, for reading back and for screen readers. ----

/**
 * @typedef {{pos: string | null, from: string, nick: string, text: string, own: boolean, event: boolean,
 *   release?: () => Promise<any>}} Line `release` lets it pass, if it is held back
 */

/** @type {Line[]} lines of the shown room that are not in the document yet */
let fresh = [];

/** @param {Tab} tab @param {Line} line */
function keep(tab, line) {
  tab.lines.push(line);
  if (tab.lines.length > 2 * LOG_MAX) tab.lines = tab.lines.slice(-LOG_MAX);
  if (tab !== shown) return;
  fresh.push(line);
  if (fresh.length > LOG_MAX) fresh.shift();
  soon(write);
}

/** Something that happened. @param {string} text @returns {Line} */
const happened = text => ({ pos: null, from: '', nick: '', text, own: false, event: true });

/** @param {Tab} tab @param {string} text */
const tell = (tab, text) => keep(tab, happened(text));

/** To all rooms. @param {string} text */
const tellAll = text => { for (const tab of tabs.values()) tell(tab, text); };

/** @param {Line} line */
function element(line) {
  const item = document.createElement('li');
  item.className = line.event ? 'event' : line.own ? 'mine' : '';
  item.dir = 'auto';
  if (line.pos) item.dataset.pos = line.pos;
  if (line.nick) {
    item.appendChild(document.createElement('bdi')).textContent = line.nick;
    item.append('\u2002');
  }
  item.append(line.text);
  if (line.pos && shown.room.may.has('moderate')) {
    const button = item.appendChild(document.createElement('button'));
    button.type = 'button';
    button.textContent = '⋯';
    button.setAttribute('aria-label', `moderate this comment of ${line.nick}`);
    button.onclick = () => moderate(line);
  }
  if (line.release) {
    const button = item.appendChild(document.createElement('button'));
    button.type = 'button';
    button.textContent = 'let it pass';
    button.onclick = () => release(line, button);
  }
  return item;
}

function write() {
  const log = $('log');
  log.append(...fresh.map(element));
  fresh = [];
  while (log.childElementCount > LOG_MAX) log.firstChild.remove();
}

/** Takes away comments, wherever they are. @param {Tab} tab @param {(line: any) => boolean} which */
function vanish(tab, which) {
  const gone = new Set(tab.lines.filter(which).map(line => line.pos));
  tab.lines = tab.lines.filter(line => !which(line));
  if (tab !== shown) return;
  fresh = fresh.filter(line => !which(line));
  for (const item of [...$('log').children]) if (item.dataset.pos && gone.has(item.dataset.pos)) item.remove();
  stage.remove(which);
}

function people() {
  const { count, distinct, users } = shown.room;
  $('count').textContent = (count ?? '–').toLocaleString('en');
  $('names').replaceChildren(...[...users ?? []].slice(0, NAMES_MAX).map(user => {
    const item = document.createElement('li');
    item.dir = 'auto';
    item.textContent = called(user);
    return item;
  }));
  const more = (users?.size ?? 0) - NAMES_MAX;
  $('crowd').textContent = more > 0 ? `… and ${more.toLocaleString('en')} more`
    : users ? `${users.size === 1 ? 'One user' : `${users.size} users`}, ${count === 1 ? 'one connection' : `${count} connections`}`
    : distinct !== null ? `${distinct.toLocaleString('en')} users: too many to name them all`
    : count !== null ? `${count.toLocaleString('en')} connections` : '';
}

function panel(/** @type {boolean} */ names) {
  $('scroll').hidden = names;
  $('people').hidden = !names;
  for (const [tab, selected] of [[$('show-log'), !names], [$('show-people'), names]]) {
    tab.setAttribute('aria-selected', String(selected));
    tab.tabIndex = selected ? 0 : -1;
  }
}
$('show-log').onclick = () => panel(false);
$('show-people').onclick = () => panel(true);

// ---- Moderation, for who may. ----

/** @param {Line} line */
async function moderate(line) {
  const { room } = shown;
  $('moderate-title').textContent = `${line.nick}${line.nick === line.from ? '' : ` (${line.from})`}`;
  $('moderate-text').textContent = line.text;
  const what = await asked($('moderate'));
  const verbs = {
    delete: () => room.delete(/** @type {string} */ (line.pos)),
    mute: () => room.mute(line.from, 600_000),
    unmute: () => room.unmute(line.from),
    kick: () => room.kick(line.from),
    ban: () => room.ban(line.from),
    unban: () => room.unban(line.from),
  };
  await /** @type {any} */ (verbs)[what]?.().catch((/** @type {Error} */ error) => note(`Not done: ${error.message}`));
}

/** @param {Line} line @param {HTMLButtonElement} button */
async function release(line, button) {
  button.disabled = true;
  try {
    await line.release?.();
    delete line.release;
    button.remove();
  } catch (/** @type {any} */ error) {
    button.disabled = false;
    note(`Not done: ${error.message}`);
  }
}

$('clear').onclick = () => shown.room.clear().catch((/** @type {Error} */ error) => note(`Not done: ${error.message}`));

/** Shows a dialog; the value of the button that ended it. @param {HTMLDialogElement} dialog @returns {Promise<string>} */
function asked(dialog) {
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise(resolve => dialog.addEventListener('close', () => resolve(dialog.returnValue), { once: true }));
}

/** Who may do what in the shown room. */
function permit() {
  const muted = Math.max(shown.muted, everywhere) > Date.now();
  const why = shown.closed || (!shown.room.may.has('send') ? 'You may only watch here' : muted ? `You may not speak${till(Math.max(shown.muted, everywhere) === Infinity ? 0 : Math.max(shown.muted, everywhere))}` : '');
  $('send').disabled = Boolean(why);
  $('text').placeholder = why || 'Say something';
  $('clear').hidden = !shown.room.may.has('moderate');
}
let everywhere = 0;             // until when this user is muted in all rooms
setInterval(() => permit(), 1000);

// ---- What is said. ----

/** @type {any} */
let noteTimer;
/** @param {string} text */
function note(text) {
  $('note').textContent = text;
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => $('note').textContent = '', 8000);
}

$('say').onsubmit = async (/** @type {Event} */ event) => {
  event.preventDefault();
  const text = $('text').value.trim();
  if (!text || $('send').disabled) return;
  $('text').value = '';
  note(baton.state === 'open' ? '' : 'It is sent as soon as there is a connection.');
  try {
    const pos = await shown.room.send({ text, nick: $('nick').value.trim(), color: myColor }, { patience: 15_000 });
    note(pos ? '' : 'A moderator will look at it first.');
  } catch (/** @type {any} */ error) {
    $('text').value ||= text;
    const again = error.retryAfterMs ? `, again in ${Math.ceil(error.retryAfterMs / 1000)} s` : '';
    note(`Not ${error.code === 'unconfirmed' ? 'confirmed' : 'said'}: ${error.message}${again}`);
  }
};

let myColor = remember(localStorage, 'color') ?? '';
if (!COLORS.includes(myColor)) myColor = COLORS[Math.floor(Math.random() * COLORS.length)];
for (const [name, value] of Object.entries(PALETTE)) {
  const input = document.createElement('input');
  Object.assign(input, { type: 'radio', name: 'color', ariaLabel: name, title: name, checked: value === myColor });
  input.style.setProperty('--c', value);
  input.onchange = () => { remember(localStorage, 'color', myColor = value); };
  $('colors').append(input);
}
$('nick').value = remember(localStorage, 'nick') ?? '';
$('nick').onchange = () => remember(localStorage, 'nick', $('nick').value.trim());
if (matchMedia('(pointer: fine)').matches) $('text').focus();

// ---- The connection. ----

let token = remember(sessionStorage, 'token') || '';
/** @type {Baton} */
let baton;
let server = '';                // what serves it, to notice a move

const STATES = { connecting: 'connecting', open: 'connected', waiting: 'disconnected', closed: 'closed' };

function connect() {
  baton?.close();
  server = '';
  // A function, so that one who signs in anew later shows the new one.
  const mine = baton = new Baton(token ? { token: () => token } : {});
  mine.on('state', state => {
    if (mine !== baton) return;
    $('light').dataset.state = state;
    $('state').textContent = state === 'closed' ? mine.closed?.message ?? '' : STATES[/** @type {'open'} */ (state)];
    $('retry').hidden = state !== 'waiting' && state !== 'closed';
    if (state !== 'open') {
      for (const id of ['worker', 'count']) $(id).textContent = '–';
      $('process').textContent = '';
      server = '';
    }
    countdown();
  });
  mine.on('hello', hello => {
    const { user, reconnects } = mine;
    me.add(user ?? hello.cid);
    $('who').textContent = user ?? 'no token';
    $('reconnects').textContent = String(reconnects);
    if (reconnects > 0) {
      $('reconnected').textContent = `${reconnects === 1 ? 'reconnect' : 'reconnects'}, ${new Date().toLocaleTimeString()}`;
      tellAll('reconnected');
    }
    permit();
  });
  mine.on('served', ({ worker, pid, life }) => {
    $('worker').textContent = worker;
    $('process').textContent = `pid ${pid}, life ${life}`;
    const now = `worker ${worker}, pid ${pid}, life ${life}`;
    if (server) tellAll(`now served by ${now}; the connection stayed open`);
    server = now;
  });
  mine.on('muted', ({ until_ms }) => { everywhere = until_ms ?? Infinity; permit(); });
  mine.on('unmuted', () => { everywhere = 0; permit(); });
  mine.on('error', error => note(error.message));
}

function countdown() {
  const seconds = Math.max(1, Math.ceil((baton.retryAt - Date.now()) / 1000));
  $('when').textContent = baton.state === 'waiting' ? `again in ${seconds} s` : '';
}
setInterval(countdown, 1000);
// Who serves us, every few seconds.
setInterval(() => baton.state === 'open' && !document.hidden && baton.ping().catch(() => {}), 3000);

/** With another token, or after the end. */
function anew() {
  connect();
  for (const tab of tabs.values()) listen(tab);
  render();
}

$('retry').onclick = () => baton.closed ? anew() : baton.connect();
$('who').onclick = async () => {
  const what = await asked($('sign-in'));
  if (!what) return;
  token = what === 'use' ? $('token').value.trim() : '';
  $('token').value = '';
  remember(sessionStorage, 'token', token);
  anew();
};

connect();
for (const name of JSON.parse(remember(sessionStorage, 'rooms') || '[]')) openTab(name);
show();
