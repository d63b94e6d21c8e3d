/**
 * A client of baton, for browsers and node: one module, nothing else needed.
 *
 *   import { Baton } from '/baton.js';
 *
 *   const baton = new Baton();                  // to where this page is from
 *   const room = baton.join('r', { presence: true });
 *   room.on('message', ({ pos, from, data }) => console.log(pos, from, data));
 *   const pos = await room.send({ text: 'hello' });
 *
 * In node before 22: `import WebSocket from 'ws'`, and `new Baton({ url: 'ws://host/rooms', WebSocket })`.
 *
 * A connection that ends is made anew after a pause, rooms are joined again behind the last position
 * that came, and what was missed comes first: the application sees every message of a room that
 * retains them once and in order, and hears of what is missing (`gap`, `lost`). It is not told of
 * anything that it need not know.
 *
 * Events, by `on(name, listener)`, which returns a function that ends it:
 *
 *   of a Baton   state    'connecting', 'open', 'waiting' or 'closed'; see `state`, `retryAt`, `closed`
 *                hello    what the server said first, on each new connection
 *                served   { worker, pid, life }: another process serves this connection
 *                bye      { retry_after_ms }: the server is about to close it
 *                direct   { room: '@u7', pos, from, data }: a message to all connections of this user
 *                muted, unmuted  { muted: 'u7', until_ms }: this user, in all rooms
 *                error    BatonError: what failed and has nobody to be told it
 *   of a Room    message  { room, pos, from, data }
 *                gap      { from, to, why }: these messages will not come
 *                lost     { since, pos }: what came between could not be had any more
 *                joined   { pos, count, recovered, may }: after each join, the first and later ones
 *                may      what one may do here has changed, with another token: see `may`
 *                refused  BatonError: this room cannot be joined (any more), and will not be tried again
 *                presence { in, out, count, distinct }: who has come and gone; `users` is true already.
 *                         `in` and `out` are missing where the list has come anew, or is not told
 *                deleted, cleared, muted, unmuted, banned, unbanned, kicked, held
 *                         what a moderator did, or is to look at, as the server says it
 */

const HELLO_MS = 15_000;            // a connection is open by then, or is given up
const STEADY_MS = 10_000;           // one that lasted so long was a good one: back-off begins anew
const OVERLOADED_MS = 5_000;        // at least, where the server has too much to do
const KEY_MS = 90_000;              // a message is not tried again after this: the server forgets keys
const WINDOW = 64;                  // messages on their way at once: fewer than refusals that are suffered
const MAY = ['send', 'presence', 'history'];    // in a room, if nothing is said of it

/** Close codes that are final: nobody may come back. */
const FINAL = { 4000: 'unauthorized', 4001: 'expired', 4003: 'kicked', 4004: 'banned' };

/** Errors that are about the moment. `internal` is not: what has failed so is likely to do so again. */
const RETRIED = ['rate', 'unavailable'];

const now = () => performance.now();

/**
 * Why something did not work. `code` is one of the server's (`forbidden`, `rate`, …), or of these:
 * `closed`, `disconnected` (a question was not answered), `full` (too much is waiting already), `unsent` (in vain; it
 * is certainly not published), `unconfirmed` (perhaps it is).
 */
export class BatonError extends Error {
  /** @param {string} code @param {string} [message] @param {{retry?: boolean, retry_after_ms?: number}} [more] */
  constructor(code, message = code, { retry = false, retry_after_ms } = {}) {
    super(message);
    this.name = 'BatonError';
    this.code = code;
    this.retry = retry;
    this.retryAfterMs = retry_after_ms;
  }
}

class Events {
  /** @type {Map<string, Set<Function>>} */
  #listeners = new Map();

  /**
   * @param {string} name @param {(value: any) => void} listener
   * @returns {() => void} ends it
   */
  on(name, listener) {
    const listeners = this.#listeners.get(name) ?? new Set();
    this.#listeners.set(name, listeners.add(listener));
    return () => { listeners.delete(listener); };
  }

  /** @param {string} name @param {any} [value] */
  emit(name, value) {
    for (const listener of this.#listeners.get(name) ?? []) {
      try {
        listener(value);
      } catch (error) {
        queueMicrotask(() => { throw error; });     // theirs to see, and no harm here
      }
    }
  }
}

/**
 * @typedef {object} Options
 * @property {string} [url] of `/rooms`; in a browser, where the page is from
 * @property {string | (() => string | Promise<string>)} [token] a JWT, or what gets one. A function
 *   is asked again whenever one expires.
 * @property {any} [WebSocket] the class to connect with; as a rule the global one
 * @property {boolean} [known] the server knows who this is though there is no token (a cookie, and a
 *   back end that decides), so that messages may be tried again on another connection
 * @property {number} [queue] messages that may wait to be sent, or for their `ok` (1,000)
 * @property {number} [patience] ms that one may wait, until it is given up (60,000)
 * @property {number} [heartbeat] ms of silence after which the server is asked whether it is there (15,000)
 * @property {number} [timeout] ms in which it has to answer this (10,000)
 * @property {[number, number]} [backoff] ms of the first and the longest pause before a new connection, of
 *   which a random part is waited (500, 20,000)
 * @property {boolean} [batch] messages that come together come in one frame (true)
 */

/** A connection to baton, and the next one when it ends. */
export class Baton extends Events {
  /** @type {'connecting' | 'open' | 'waiting' | 'closed'} */
  state = 'connecting';
  /** When the next connection is tried, while `waiting`: as `Date.now()` says it. */
  retryAt = 0;
  /** Why it is closed for good. @type {BatonError | null} */
  closed = null;
  /** What the server said first, while there is a connection. @type {any} */
  hello = null;
  /** Who this is, by its token. @type {string | null} */
  user = null;
  /** How often it has been open again. */
  reconnects = -1;

  #options;
  #url;
  /** @type {any} */ #socket = null;
  #opened = 0;                 // since when it is open; 0 if it is not
  #began = 0;                  // since when it is being opened
  #heard = 0;                  // when something came last
  #asked = 0;                  // since when a sign of life is waited for; 0 if none is
  #ticked = now();
  #failures = 0;               // connections in a row that were no good
  #refused = 0;                // tokens in a row that were
  /** @type {number | null} */ #retryAfter = null;    // what `bye` said
  /** @type {any} */ #timer = null;
  /** @type {any} */ #clock;
  #served = '';
  #next = 1;
  /** @type {Map<number, {resolve: Function, reject: Function}>} */ #questions = new Map();
  /** @type {Map<string, Room>} */ #rooms = new Map();
  /** @type {Outgoing[]} */ #outgoing = [];
  #window = WINDOW;
  #held = 0;                   // nothing is sent before this, as the server asked for
  #keys = Array.from(crypto.getRandomValues(new Uint32Array(3)), n => n.toString(36)).join('');
  /** @type {[any, string, () => void][]} */ #watched = [];

  /** @param {Options} [options] */
  constructor(options = {}) {
    super();
    const { location, addEventListener, document } = /** @type {any} */ (globalThis);
    this.#options = {
      WebSocket: globalThis.WebSocket, queue: 1000, patience: 60_000, heartbeat: 15_000, timeout: 10_000,
      backoff: [500, 20_000], batch: true, known: options.token !== undefined, ...options,
    };
    if (!this.#options.WebSocket) throw new TypeError('no WebSocket here: give one as an option');
    const url = new URL(options.url ?? '/rooms', location?.href);
    url.protocol = url.protocol.replace('http', 'ws');
    if (this.#options.batch) url.searchParams.set('batch', '1');
    this.#url = url.href;
    if (addEventListener) {
      this.#watch(globalThis, 'online', () => this.state === 'waiting' ? this.connect() : this.#probe());
      this.#watch(globalThis, 'offline', () => this.#probe());
    }
    if (document) this.#watch(document, 'visibilitychange', () => document.hidden || this.#probe());
    const { heartbeat, timeout } = this.#options;
    this.#clock = setInterval(() => this.#tick(), Math.min(1000, heartbeat / 2, timeout / 2));
    // Whoever made it has its listeners by then.
    queueMicrotask(() => this.state === 'connecting' && this.connect());
  }

  /** Connects now, if it is waiting to. */
  connect() {
    if (this.state === 'closed' || this.#socket || this.#began) return;
    clearTimeout(this.#timer);
    this.#began = now();
    this.#become('connecting');
    this.#dial(this.#began);
  }

  /** Ends it for good. What is not confirmed yet fails. */
  close() {
    this.#end(new BatonError('closed', 'closed by the application'));
  }

  /**
   * The room, joined as soon as there is a connection and from then on. A second time: the same one.
   * @param {string} name
   * @param {{since?: string, last?: boolean, presence?: boolean}} [options] `since`: begin behind this
   *   position; `last`: begin with the newest message; `presence`: keep `users`
   */
  join(name, options = {}) {
    let room = this.#rooms.get(name);
    if (room) return room;
    room = new Room(this, name, options);
    if (this.state === 'closed') {
      room.refuse(this.closed);
      return room;
    }
    this.#rooms.set(name, room);
    if (this.#opened) this.#enter(room);
    return room;
  }

  /** @param {string} name */
  async leave(name) {
    const room = this.#rooms.get(name);
    if (!room) return;
    this.#rooms.delete(name);
    room.refuse(new BatonError('closed', 'left'), true);
    if (this.#opened) await this.ask({ leave: name }).catch(() => {});
  }

  /**
   * Publishes; the promise is the position, once it is in the server's log. Over connections that end
   * meanwhile it is sent again with the same key, so that it is published once.
   * @param {string} room @param {any} data
   * @param {{key?: string, patience?: number}} [options] a key of one's own makes it the same message
   *   over reloads of the page, too
   * @returns {Promise<string | null>} null: it is held back, for a moderator to decide
   */
  send(room, data, { key, patience = this.#options.patience } = {}) {
    return new Promise((resolve, reject) => {
      if (this.closed) throw this.closed;
      if (this.#outgoing.length >= this.#options.queue) throw new BatonError('full', 'too much is waiting to be sent');
      const text = JSON.stringify(data);
      if (text === undefined) throw new BatonError('bad_request', 'nothing that JSON can say');
      key ??= `${this.#keys}-${this.#next++}`;
      this.#outgoing.push({
        text: `"send":${JSON.stringify(room)},"key":${JSON.stringify(key)},"data":${text}}`,
        size: new TextEncoder().encode(text).length,
        until: now() + patience, written: 0, id: 0, resolve, reject,
      });
      this.#flush();
    });
  }

  /**
   * Asks anything that the protocol knows; the promise is what comes as `ok`.
   * @param {object} request without `id` @returns {Promise<any>}
   */
  ask(request) {
    return new Promise((resolve, reject) => this.#question(request, resolve, reject));
  }

  /** @returns {Promise<{worker: number, pid: number, life: number}>} who serves this connection */
  async ping() {
    const by = await this.ask({ ping: true });
    this.#serves(by);
    return by;
  }

  // ---- the connection ----

  /** @param {number} began */
  async #dial(began) {
    const { token, WebSocket } = this.#options;
    /** @type {string | undefined} */
    let shown;
    try {
      shown = typeof token === 'function' ? await token() : token;
    } catch (error) {
      if (began === this.#began) this.#lost(0, `no token: ${/** @type {any} */ (error)?.message ?? error}`);
      return;
    }
    if (began !== this.#began) return;
    const socket = this.#socket = new WebSocket(this.#url, ['rooms.v1.json']);
    this.#heard = now();
    socket.onmessage = (/** @type {any} */ { data }) => {
      this.#heard = now();
      this.#asked = 0;
      let said;
      try {
        said = JSON.parse(data);
      } catch {
        return this.#lost(0, 'what came is not JSON');
      }
      for (const message of Array.isArray(said) ? said : [said]) {
        if (socket !== this.#socket) return;        // a listener has closed it
        if (message.hello) this.#welcome(message.hello, shown);
        else this.#hear(message);
      }
    };
    socket.onclose = (/** @type {any} */ { code, reason }) => this.#lost(code, reason);
    socket.onerror = () => {};                      // the close that follows says it
  }

  /** @param {any} hello @param {string | undefined} token */
  async #welcome(hello, token) {
    this.hello = hello;
    const socket = this.#socket;
    if (token !== undefined) {
      try {
        const { user } = await this.ask({ auth: token });
        // To the server somebody else's keys are other ones.
        if (this.user !== null && user !== this.user) this.#giveUp(item => item.written > 0);
        this.user = user;
      } catch {
        return;                                     // the close that follows says it
      }
      if (socket !== this.#socket) return;
    }
    this.#refused = 0;
    this.#began = 0;
    this.#opened = now();
    this.#held = 0;
    this.#window = WINDOW;
    this.reconnects++;
    this.#become('open');
    this.emit('hello', hello);
    for (const room of this.#rooms.values()) this.#enter(room);
    this.#flush();
    this.#probe();                                  // its answer says which process serves it
  }

  /** The connection is gone, or to be given up. @param {number} code @param {string} [reason] */
  #lost(code, reason = '') {
    const opened = this.#opened;
    this.#drop();
    for (const { reject } of this.#questions.values()) reject(new BatonError('disconnected', 'the connection was lost'));
    this.#questions.clear();
    for (const item of this.#outgoing) item.id = 0;
    if (!this.#options.known) this.#giveUp(item => item.written > 0);

    this.#failures = opened && now() - opened > STEADY_MS ? 0 : this.#failures + 1;
    const fresh = typeof this.#options.token === 'function';
    if (code === 4000) this.#refused++;
    if (code in FINAL && !(fresh && (code === 4001 || code === 4000 && this.#refused < 2))) {
      return this.#end(new BatonError(FINAL[/** @type {4000} */ (code)], reason || undefined));
    }

    const [first, most] = this.#options.backoff;
    let pause = Math.random() * Math.min(most, first * 2 ** this.#failures);
    if (code === 4100 || code === 4101) pause += OVERLOADED_MS;
    if (code === 4200 && this.#failures < 3) pause = Math.random() * 200;
    pause = this.#retryAfter ?? pause;
    this.#retryAfter = null;
    this.retryAt = Date.now() + pause;
    this.#become('waiting');
    if (this.state === 'waiting') this.#timer = setTimeout(() => this.connect(), pause);
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    this.#began = this.#opened = this.#asked = 0;
    this.#served = '';
    this.hello = null;
    if (!socket) return;
    socket.onmessage = socket.onclose = null;
    // A socket whose peer is gone waits long for its answer to a close.
    socket.terminate ? socket.terminate() : socket.close();
  }

  /** @param {BatonError} error */
  #end(error) {
    if (this.state === 'closed') return;
    this.closed = error;
    clearTimeout(this.#timer);
    clearInterval(this.#clock);
    for (const [target, name, listener] of this.#watched) target.removeEventListener(name, listener);
    const socket = this.#socket;
    if (socket) {
      socket.onmessage = socket.onclose = null;
      socket.close();
    }
    this.#socket = null;
    this.#drop();
    for (const { reject } of this.#questions.values()) reject(error);
    this.#questions.clear();
    this.#giveUp(() => true);
    for (const room of this.#rooms.values()) room.refuse(error);
    this.#rooms.clear();
    this.#become('closed');
  }

  /** @param {Baton['state']} state */
  #become(state) {
    if (this.state === state && state !== 'connecting') return;
    this.state = state;
    this.emit('state', state);
  }

  /** @param {any} target @param {string} name @param {() => void} listener */
  #watch(target, name, listener) {
    target.addEventListener(name, listener);
    this.#watched.push([target, name, listener]);
  }

  /** Asks for a sign of life, unless one is waited for. */
  #probe() {
    if (!this.#opened || this.#asked) return;
    this.#asked = now();
    this.ping().catch(() => {});
  }

  #tick() {
    const { heartbeat, timeout } = this.#options;
    const time = now();
    // The machine was asleep, or this page was: what came meanwhile has not been looked at yet.
    const slept = time - this.#ticked > timeout;
    this.#ticked = time;
    if (slept) {
      if (this.#asked) this.#asked = time;
    } else if (this.#opened) {
      if (this.#asked && time - this.#asked > timeout) this.#lost(0, 'the server is silent');
      else if (time - this.#heard > heartbeat) this.#probe();
    } else if (this.#began && time - this.#began > HELLO_MS) {
      this.#lost(0, 'no connection came about');
    }
    this.#giveUp(item => time > item.until || item.written > 0 && time - item.written > KEY_MS);
    this.#flush();
  }

  // ---- what comes ----

  /** @param {any} message */
  #hear(message) {
    if (message.id !== undefined) return this.#answer(message);
    if (message.error) return this.emit('error', refusal(message.error));
    if (message.room !== undefined) {
      const room = this.#rooms.get(message.room);
      const me = this.user ?? this.hello?.cid;
      const out = ['banned', 'kicked'].find(word => message[word] === me);
      if (room) room.hear(message);
      if (room && out) {
        this.#rooms.delete(message.room);
        const ms = message.until_ms && message.until_ms - Date.now();
        room.refuse(new BatonError(out, `${out} from this room`, { retry_after_ms: ms }));
      }
      if (!room && message.room.startsWith('@') && 'data' in message) this.emit('direct', message);
    } else if (message.bye) {
      const wait = Number(message.bye.retry_after_ms);
      this.#retryAfter = wait >= 0 ? Math.min(wait, 300_000) : null;
      this.emit('bye', message.bye);
    } else if (message.auth) {
      this.#renew();
    } else {
      this.emit(Object.keys(message)[0], message);
    }
  }

  /** @param {any} message */
  #answer({ id, ok, error }) {
    const question = this.#questions.get(id);
    this.#questions.delete(id);
    if (question) return ok ? question.resolve(ok) : question.reject(refusal(error));
    const index = this.#outgoing.findIndex(item => item.id === id);
    if (index < 0) return;
    const item = this.#outgoing[index];
    item.id = 0;
    if (ok) {
      this.#window = Math.min(WINDOW, this.#window + 1);
      this.#outgoing.splice(index, 1);
      item.resolve(ok.pos ?? null);
    } else if (RETRIED.includes(error.code) && now() + (error.retry_after_ms ?? 0) < item.until) {
      // It was not published, and may be later.
      item.written = 0;
      this.#window = Math.max(1, this.#window >> 1);
      this.#held = Math.max(this.#held, now() + (error.retry_after_ms ?? 500));
      setTimeout(() => this.#flush(), this.#held - now() + 1);
    } else {
      this.#outgoing.splice(index, 1);
      item.reject(refusal(error));
    }
    this.#flush();
  }

  /** @param {any} by */
  #serves(by) {
    const served = JSON.stringify(by);
    if (served === this.#served) return;
    this.#served = served;
    this.emit('served', by);
  }

  async #renew() {
    const { token } = this.#options;
    if (typeof token !== 'function') return;        // the close will say that it was not renewed
    try {
      await this.ask({ auth: await token() });
      await this.#askAnew();
    } catch (error) {
      this.emit('error', error);
    }
  }

  /** Another token may allow something else: who joins a room in which it is hears what, and nothing else. */
  async #askAnew() {
    for (const room of [...this.#rooms.values()]) {
      if (!this.#opened || room.opened !== this.#opened || this.#rooms.get(room.name) !== room) continue;
      const ok = await this.ask({ join: room.name }).catch(() => null);
      // Put out of it meanwhile, it would have come in again.
      if (ok && !this.#rooms.has(room.name)) await this.ask({ leave: room.name }).catch(() => {});
      if (ok) room.allow(ok);
    }
  }

  // ---- what is said ----

  /**
   * As {@link Baton#ask}, but that the answer is dealt with at once, before what has come behind it.
   * @param {object} request @param {(ok: any) => void} resolve @param {(error: any) => void} reject
   */
  #question(request, resolve, reject) {
    if (!this.#socket || !this.hello) return reject(this.closed ?? new BatonError('disconnected', 'not connected'));
    const id = this.#next++;
    this.#questions.set(id, { resolve, reject });
    this.#socket.send(JSON.stringify({ id, ...request }));
  }

  /** Joins, or joins again behind what came last. @param {Room} room @param {number} [tries] */
  #enter(room, tries = 0) {
    const { presence, last } = room.options;
    const since = room.pos ?? undefined;
    const opened = this.#opened;
    const is = () => opened === this.#opened && this.#rooms.get(room.name) === room;
    this.#question({ join: room.name, since, last, presence }, ok => {
      if (!is()) return;
      room.opened = opened;
      room.enter(ok, since);
    }, error => {
      if (!is() || error.code === 'disconnected') return;
      if (RETRIED.includes(error.code)) {
        const pause = error.retryAfterMs ?? Math.random() * Math.min(20_000, 1000 * 2 ** tries);
        setTimeout(() => is() && this.#enter(room, tries + 1), pause);
        return;
      }
      this.#rooms.delete(room.name);
      room.refuse(error);
    });
  }

  /** Sends what waits, as much as may be on its way at once. */
  #flush() {
    if (!this.#opened || now() < this.#held) return;
    let flying = 0;
    const most = this.hello.max?.message ?? Infinity;
    for (const item of [...this.#outgoing]) {
      if (flying >= this.#window || this.#socket.bufferedAmount > 1 << 20) return;
      if (item.size > most) {
        // The server would end the connection over one that is much too large.
        this.#outgoing.splice(this.#outgoing.indexOf(item), 1);
        item.reject(new BatonError('too_large', `more than ${most} bytes`));
        continue;
      }
      flying++;
      if (item.id) continue;
      item.id = this.#next++;
      item.written ||= now();
      this.#socket.send(`{"id":${item.id},${item.text}`);
    }
  }

  /** @param {(item: Outgoing) => boolean} which */
  #giveUp(which) {
    const gone = this.#outgoing.filter(which);
    if (gone.length === 0) return;
    this.#outgoing = this.#outgoing.filter(item => !gone.includes(item));
    for (const { written, reject } of gone) {
      reject(written ? new BatonError('unconfirmed', 'nobody knows whether it was published')
        : new BatonError('unsent', 'it was not sent in time'));
    }
  }
}

/**
 * @typedef {object} Outgoing a message that is to be published
 * @property {string} text what is sent, behind the id
 * @property {number} size bytes of its data
 * @property {number} until when it is given up
 * @property {number} written when it was sent first; 0: it certainly is not published
 * @property {number} id of the request that is on its way; 0 if none is
 * @property {(pos: string) => void} resolve
 * @property {(error: BatonError) => void} reject
 */

/** A room that is joined, over all connections. It is made by {@link Baton#join}. */
export class Room extends Events {
  /** The last position that came: a later join can begin behind it. @type {string | null} */
  pos;
  /** Connections that are here, as far as it was told. @type {number | null} */
  count = null;
  /** Users that are here. @type {number | null} */
  distinct = null;
  /** Who is here, if `presence` was wanted and the room is not too large for it. @type {Set<string> | null} */
  users = null;
  /**
   * What one may do here: `send`, `presence`, `history`, `moderate`. Who is muted may send all the same, later.
   * @type {Set<string>}
   */
  may = new Set(MAY);
  /** The connection that is in it. @ignore */
  opened = 0;
  /** Resolves with the first `joined`, or fails with what it was refused for. @type {Promise<any>} */
  ready;

  /** @type {(value: any) => void} */ #resolve = () => {};
  /** @type {(value: any) => void} */ #reject = () => {};

  /** @param {Baton} baton @param {string} name @param {any} options */
  constructor(baton, name, options) {
    super();
    this.baton = baton;
    this.name = name;
    this.options = options;
    this.pos = options.since ?? null;
    this.ready = new Promise((resolve, reject) => [this.#resolve, this.#reject] = [resolve, reject]);
    this.ready.catch(() => {});                     // `refused` says it, too
  }

  /** Publishes here; see {@link Baton#send}. @param {any} data @param {{key?: string, patience?: number}} [options] */
  send(data, options) {
    return this.baton.send(this.name, data, options);
  }

  leave() {
    return this.baton.leave(this.name);
  }

  /**
   * The newest messages that are retained, or the newest before a position; oldest first.
   * @param {{before?: string, limit?: number}} [options]
   * @returns {Promise<{pos: string, from: string, data: any}[]>}
   */
  async history({ before, limit } = {}) {
    return (await this.baton.ask({ history: this.name, before, limit })).messages;
  }

  /** Who is here. @param {number} [limit] @returns {Promise<{count: number, distinct?: number, users: string[], whole: boolean}>} */
  who(limit) {
    return this.baton.ask({ who: this.name, limit });
  }

  // ---- for who may moderate ----

  /** @param {string} user @param {number} [ms] for ever, if none is given */
  mute(user, ms) { return this.baton.ask({ mute: user, room: this.name, for_ms: ms }); }
  /** @param {string} user */
  unmute(user) { return this.baton.ask({ unmute: user, room: this.name }); }
  /** @param {string} user @param {number} [ms] for ever, if none is given */
  ban(user, ms) { return this.baton.ask({ ban: user, room: this.name, for_ms: ms }); }
  /** @param {string} user */
  unban(user) { return this.baton.ask({ unban: user, room: this.name }); }
  /** Puts out of the room who may come back. @param {string} user */
  kick(user) { return this.baton.ask({ kick: user, room: this.name }); }
  /**
   * Lets pass what was held back: it is said by its author, and once, whoever lets it pass.
   * @param {{key: string, from: string, data: any}} held as the event `held` has it
   */
  release({ key, from, data }) { return this.baton.ask({ send: this.name, as: from, key, data }); }
  /** @param {string} pos of the message that is to go */
  delete(pos) { return this.baton.ask({ delete: pos, room: this.name }); }
  /** All messages so far are to go. */
  clear() { return this.baton.ask({ clear: this.name }); }

  // ---- for the connection ----

  /** @param {any} ok @param {string | undefined} since @ignore */
  enter(ok, since) {
    this.pos = ok.pos;
    this.count = ok.count;
    this.may = new Set(ok.may ?? MAY);
    if (ok.recovered === false) this.emit('lost', { since, pos: ok.pos });
    this.#resolve(ok);
    this.emit('joined', ok);
  }

  /** @param {any} ok of a join that has changed nothing @ignore */
  allow({ may = MAY }) {
    const before = this.may;
    this.may = new Set(may);
    if (before.size !== this.may.size || may.some((/** @type {string} */ right) => !before.has(right))) this.emit('may', this.may);
  }

  /** @param {any} error @param {boolean} [quietly] @ignore */
  refuse(error, quietly = false) {
    this.#reject(error);
    if (!quietly) this.emit('refused', error);
  }

  /** @param {any} message @ignore */
  hear(message) {
    if ('data' in message) {
      this.pos = message.pos;
      this.emit('message', message);
    } else if (message.gap) {
      this.pos = message.gap.to;
      this.emit('gap', message.gap);
    } else if ('count' in message) {
      this.#present(message);
    } else {
      const what = Object.keys(message).find(name => name !== 'room');
      if (what) this.emit(what, message);
    }
  }

  /** @param {any} message */
  #present({ users, in: came, out: gone, count, distinct }) {
    this.count = count;
    this.distinct = distinct ?? null;
    if (users) this.users = new Set(users);
    else if (came || gone) {
      this.users ??= new Set();
      for (const user of gone ?? []) this.users.delete(user);
      for (const user of came ?? []) this.users.add(user);
    } else this.users = null;
    this.emit('presence', { in: came, out: gone, count, distinct });
  }
}

/** @param {any} error as the server says it */
function refusal({ code, message, ...more }) {
  return new BatonError(code, message, more);
}
