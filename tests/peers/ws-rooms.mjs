// A WebSocket server with `ws`, as people write it: `/echo` sends back what comes, `/room/N` sends
// it to all who are there.
//
//   node tests/peers/ws-rooms.mjs WORKERS
//
// One worker: a single process. More: node's cluster, in which what is said reaches the members that
// other workers serve by messages between the processes. Prints the port once all serve, and ends
// when stdin does.

import cluster from 'node:cluster';
import http from 'node:http';
import { WebSocketServer } from 'ws';

const workers = Number(process.argv[2]);

function serve(ready) {
  const rooms = new Map();
  const server = http.createServer((_, response) => response.writeHead(404).end());
  const sockets = new WebSocketServer({ server });

  function deliver(room, data) {
    for (const member of rooms.get(room) ?? []) member.send(data, { binary: false });
  }
  sockets.on('connection', (socket, request) => {
    socket.on('error', () => socket.terminate());
    if (request.url === '/echo') {
      socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
      return;
    }
    const room = request.url;
    if (!rooms.has(room)) rooms.set(room, new Set());
    rooms.get(room).add(socket);
    socket.on('close', () => rooms.get(room).delete(socket));
    socket.on('message', data => {
      deliver(room, data);
      process.send?.({ room, text: data.toString() });
    });
  });
  if (cluster.isWorker) process.on('message', ({ room, text }) => deliver(room, Buffer.from(text)));
  server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => ready(server.address().port));
}

if (!cluster.isPrimary) {
  serve(() => {});
} else if (workers === 1) {
  serve(port => console.log(port));
} else {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  let ready = 0;
  cluster.on('listening', (_, { port }) => {
    if (++ready === workers) console.log(port);
  });
  cluster.on('message', (from, message) => {
    for (const worker of Object.values(cluster.workers)) if (worker !== from) worker.send(message);
  });
  for (let i = 0; i < workers; i++) cluster.fork();
}
if (cluster.isPrimary) {
  process.stdin.on('end', () => {
    for (const worker of Object.values(cluster.workers ?? {})) worker.process.kill('SIGKILL');
    process.exit();
  }).resume();
}
