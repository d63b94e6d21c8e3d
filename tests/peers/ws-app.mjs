// A WebSocket server as people write it for PM2 and for node's cluster: it echoes, and when it is
// told to leave, it takes no more connections, closes those that it has, and ends.
//
//   PORT=8000 node tests/peers/ws-app.mjs

import http from 'node:http';
import { WebSocketServer } from 'ws';

const server = http.createServer((_, response) => response.writeHead(404).end());
const sockets = new WebSocketServer({ server, path: '/echo' });
sockets.on('connection', socket => {
  socket.on('message', (data, isBinary) => socket.send(data, { binary: isBinary }));
  socket.on('error', () => socket.terminate());
});

function leave() {
  server.close();
  // 1012: the service restarts.
  for (const socket of sockets.clients) socket.close(1012);
  // Who does not answer the close within a second is cut off.
  const end = Date.now() + 1000;
  setInterval(() => {
    if (sockets.clients.size === 0 || Date.now() > end) process.exit();
  }, 10);
}

process.on('SIGINT', leave);
process.on('message', message => message === 'leave' && leave());
server.listen({ port: Number(process.env.PORT), host: '127.0.0.1', backlog: 4096 }, () => {
  process.send?.('ready');
});
