// A TCP proxy that does to connections what networks do: it cuts them in the middle of a frame, lets
// them go silent, and refuses new ones for a while.

import { once } from 'node:events';
import { connect, createServer } from 'node:net';

export class Proxy {
  /** Whither, and it may change. */
  to;
  port;
  made = 0;
  #server;
  #pairs = new Set();
  #refusing = false;

  static async to(to) {
    const proxy = new Proxy();
    proxy.to = new URL(to);
    proxy.#server = createServer({ noDelay: true }, near => proxy.#pair(near)).listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    proxy.port = proxy.#server.address().port;
    return proxy;
  }

  url(path, scheme = 'ws') {
    return `${scheme}://127.0.0.1:${this.port}${path}`;
  }

  #pair(near) {
    near.on('error', () => {});
    if (this.#refusing) return near.resetAndDestroy();
    this.made++;
    const far = connect({ host: this.to.hostname, port: this.to.port, noDelay: true });
    const pair = { near, far, silent: false, doomed: false };
    this.#pairs.add(pair);
    const end = () => { near.destroy(); far.destroy(); this.#pairs.delete(pair); };
    far.on('error', () => {});
    for (const [from, to] of [[near, far], [far, near]]) {
      from.on('data', bytes => {
        if (pair.silent) return;                  // read, and gone
        if (!pair.doomed) return to.write(bytes);
        // A part of it arrives, and then nothing.
        to.write(bytes.subarray(0, Math.floor(Math.random() * bytes.length)), end);
      });
      // Who is silent does not even hear that the other has gone.
      from.on('close', () => pair.silent || end());
    }
  }

  /** Some of the connections, or all. */
  #some(share) {
    return [...this.#pairs].filter(pair => !pair.silent && Math.random() < share);
  }

  /** The next bytes that come, in one direction or the other, come in part; then it is over. */
  cut(share = 1) {
    for (const pair of this.#some(share)) pair.doomed = true;
  }

  /** Connections at once, whatever is on its way. */
  reset(share = 1) {
    for (const { near, far } of this.#some(share)) { near.resetAndDestroy(); far.resetAndDestroy(); }
  }

  /** They stay open, and nothing goes through any more. */
  silence(share = 1) {
    for (const pair of this.#some(share)) pair.silent = true;
  }

  /** New connections are reset, or not any more. */
  refuse(refusing) {
    this.#refusing = refusing;
  }

  close() {
    this.#server.close();
    for (const { near, far } of this.#pairs) { near.destroy(); far.destroy(); }
  }
}
