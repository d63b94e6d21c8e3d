// What baton is measured beside: node's cluster with its round robin, the primary accepting every
// connection and sending it to a worker.
//
//   node tests/peers/node-cluster.mjs WORKERS
//
// Prints the port once every worker serves, and ends when stdin does.

import cluster from 'node:cluster';
import http from 'node:http';

if (cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  let ready = 0;
  cluster.on('listening', (_, { port }) => {
    if (++ready === Number(process.argv[2])) console.log(port);
  });
  for (let i = 0; i < Number(process.argv[2]); i++) cluster.fork();
  process.stdin.on('end', () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGKILL');
    process.exit();
  }).resume();
} else {
  const body = `handled by worker ${cluster.worker.id} (pid ${process.pid})\n`;
  http.createServer((request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/plain', 'Content-Length': body.length });
    response.end(body);
  }).listen({ port: 0, host: '127.0.0.1', backlog: 4096 });
}
