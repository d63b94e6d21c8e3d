// Socket.IO as its handbook sets it up on several cores: sticky sessions, and its adapter for
// node's cluster.
//
//   node tests/peers/socket-io.mjs WORKERS
//
// `join` joins a room, `say` sends to all who are there. Prints the port once every worker serves,
// and ends when stdin does.

import cluster from 'node:cluster';
import http from 'node:http';
import { createAdapter, setupPrimary } from '@socket.io/cluster-adapter';
import { setupMaster, setupWorker } from '@socket.io/sticky';
import { Server } from 'socket.io';

if (cluster.isPrimary) {
  const workers = Number(process.argv[2]);
  const server = http.createServer();
  setupMaster(server, { loadBalancingMethod: 'round-robin' });
  setupPrimary();
  cluster.setupPrimary({ serialization: 'advanced' });
  let ready = 0;
  cluster.on('message', (_, message) => {
    if (message !== 'ready' || ++ready < workers) return;
    server.listen({ port: 0, host: '127.0.0.1', backlog: 4096 }, () => {
      console.log(server.address().port);
    });
  });
  for (let i = 0; i < workers; i++) cluster.fork();
  process.stdin.on('end', () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGKILL');
    process.exit();
  }).resume();
} else {
  // A bench is over before anybody would have to be pinged.
  const io = new Server(http.createServer(), { transports: ['websocket'], pingInterval: 600_000 });
  io.adapter(createAdapter());
  setupWorker(io);
  io.on('connection', socket => {
    socket.on('join', (room, joined) => {
      socket.join(room);
      joined();
    });
    socket.on('say', (room, text) => io.to(room).emit('said', text));
  });
  process.send('ready');
}
