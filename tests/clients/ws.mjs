// node's `ws` as a client.
//
//   BATON_URL=http://127.0.0.1:8000 node tests/clients/ws.mjs

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { randomBytes } from 'node:crypto';
import { decode, encode } from '@msgpack/msgpack';
import WebSocket from 'ws';
import { check, done, url } from './tap.mjs';

async function open(path, protocols = [], options = {}) {
  const socket = new WebSocket(url(path), protocols, options);
  const inbox = [];
  const waiting = [];
  socket.on('message', (data, binary) => {
    const message = binary ? data : String(data);
    waiting.length ? waiting.shift()(message) : inbox.push(message);
  });
  socket.next = () => inbox.length ? Promise.resolve(inbox.shift()) : new Promise(resolve => waiting.push(resolve));
  await once(socket, 'open');
  return socket;
}

async function close(socket, code = 1000) {
  socket.close(code);
  const [got] = await once(socket, 'close');
  assert.equal(got, code);
}

await check('messages of every size come back', async () => {
  const socket = await open('/echo');
  for (const size of [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20, 16 << 20]) {
    const message = randomBytes(size);
    socket.send(message);
    const echo = await socket.next();
    assert(message.equals(echo), `${size} bytes were altered`);
  }
  socket.send('häß 你好 🎉');
  assert.equal(await socket.next(), 'häß 你好 🎉');
  await close(socket);
});

await check('a thousand messages at once come back in order', async () => {
  const socket = await open('/echo');
  for (let i = 0; i < 1000; i++) socket.send(`${i}`);
  for (let i = 0; i < 1000; i++) assert.equal(await socket.next(), `${i}`);
  await close(socket, 3000);
});

await check('a fragmented message comes back whole, with a ping inside', async () => {
  const socket = await open('/echo');
  const pong = once(socket, 'pong');
  socket.send('one ', { fin: false });
  socket.ping('inside');
  socket.send('two ', { fin: false });
  socket.send('three', { fin: true });
  assert.equal(await socket.next(), 'one two three');
  assert.equal(String((await pong)[0]), 'inside');
  await close(socket);
});

await check('200 clients in one room see one order', async () => {
  const clients = await Promise.all(Array.from({ length: 200 }, () => open('/rooms', 'rooms.v1.json')));
  const workers = new Set();
  for (const client of clients) {
    assert.equal(client.protocol, 'rooms.v1.json');
    workers.add(JSON.parse(await client.next()).hello.worker);
  }
  assert.equal(workers.size, Number(process.env.BATON_WORKERS ?? 2), 'every worker serves some');
  for (const client of clients) client.send('{"id":1,"join":"ws"}');
  for (const client of clients) assert.equal(JSON.parse(await client.next()).id, 1);
  for (const [i, client] of clients.entries()) client.send(JSON.stringify({ send: 'ws', data: i }));
  const orders = await Promise.all(clients.map(async client => {
    const order = [];
    while (order.length < clients.length) order.push(JSON.parse(await client.next()));
    return order;
  }));
  for (const order of orders) assert.deepEqual(order, orders[0]);
  assert.deepEqual(orders[0].map(({ data }) => data).sort((a, b) => a - b), clients.map((_, i) => i));
  const offsets = orders[0].map(({ pos }) => Number(pos.split(':')[1]));
  offsets.forEach((offset, i) => assert.equal(offset, offsets[0] + i));
  await Promise.all(clients.map(client => close(client)));
}, 60);

await check('MessagePack and JSON hear the same', async () => {
  const packs = await open('/rooms', 'rooms.v1.msgpack');
  const speaks = await open('/rooms', 'rooms.v1.json');
  // A Buffer would make Buffers of what is in it.
  const hear = async () => decode(Uint8Array.from(await packs.next()));
  const say = message => packs.send(encode(message));
  assert.equal((await hear()).hello.max.message, 65_536);
  await speaks.next();
  say({ id: 'j', join: 'packed' });
  assert.equal((await hear()).id, 'j');
  speaks.send('{"id":1,"join":"packed"}');
  await speaks.next();
  const bytes = new Uint8Array([0, 255, 127]);
  for (const [data, asJson] of [
    [{ text: 'häß 你好 🎉\n', list: [1, -1, 0.5, null, true, [], {}] }],
    [[0, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER, 1.5e300, 5e-324, -0.1]],
    [{ blob: bytes }, { blob: { $bin: 'AP9/' } }],
  ]) {
    say({ send: 'packed', data });
    const [own, other] = [await hear(), JSON.parse(await speaks.next())];
    assert.deepEqual(own.data, data);
    assert.deepEqual(other, { ...own, data: asJson ?? data });
    speaks.send(JSON.stringify({ send: 'packed', data: asJson ?? data }));
    assert.deepEqual((await hear()).data, data);
    assert.deepEqual(JSON.parse(await speaks.next()).data, asJson ?? data);
  }
  // A date is an extension type.
  say({ id: 2, send: 'packed', data: new Date() });
  const { id, error } = await hear();
  assert.deepEqual([id, error.code], [2, 'bad_request']);
  packs.send('{}');
  const [code] = await once(packs, 'close');
  assert.equal(code, 1003);
  await close(speaks);
});

await check('messages are compressed both ways', async () => {
  const threshold = { threshold: 0, zlibDeflateOptions: { level: 9 } };
  const offers = [
    threshold,
    { ...threshold, serverNoContextTakeover: true, clientNoContextTakeover: true },
    { ...threshold, serverMaxWindowBits: 10 },
    { ...threshold, clientMaxWindowBits: 9 },
    false,
  ];
  for (const perMessageDeflate of offers) {
    const socket = await open('/echo', [], { perMessageDeflate });
    assert.equal(socket.extensions, perMessageDeflate ? 'permessage-deflate' : '');
    for (const size of [0, 1, 1000, 70_000, 1 << 20]) {
      const text = 'häß 你好 🎉 '.repeat(size).slice(0, size);
      const before = socket._socket.bytesRead;
      socket.send(text);
      assert.equal(await socket.next(), text);
      const read = socket._socket.bytesRead - before;
      // A window of 2^10 bytes is for messages that are no longer.
      const compressed = perMessageDeflate && size >= 1000 && !perMessageDeflate.serverMaxWindowBits;
      assert(compressed ? read < size / 5 : read >= size, `${size} bytes as ${read}`);
    }
    await close(socket);
  }
  const [one, other] = [await open('/rooms'), await open('/rooms', [], { perMessageDeflate: false })];
  for (const client of [one, other]) {
    await client.next();
    client.send('{"id":1,"join":"deflate"}');
    await client.next();
  }
  const before = one._socket.bytesRead;
  const data = 'what is said in a room, '.repeat(1000);
  other.send(JSON.stringify({ send: 'deflate', data }));
  for (const client of [one, other]) assert.equal(JSON.parse(await client.next()).data, data);
  assert(one._socket.bytesRead - before < data.length / 20);
  await Promise.all([one, other].map(client => close(client)));
});

await check('an unknown subprotocol is refused', async () => {
  const socket = new WebSocket(url('/rooms'), 'chat.v9');
  const [, response] = await once(socket, 'unexpected-response');
  assert.equal(response.statusCode, 400);
  socket.on('error', () => {});
  socket.terminate();
});

done();
