// Node's cluster with `ws`, restarted as people do it: one worker after the other, the new one
// before the old one.
//
//   node tests/peers/ws-cluster.mjs WORKERS
//
// Prints the port once every worker serves. The line `reload` restarts all, and `reloaded` says that
// it is done. A worker that dies is replaced. Ends when stdin does.

import cluster from 'node:cluster';
import { once } from 'node:events';
import { createInterface } from 'node:readline';

if (cluster.isPrimary) {
  cluster.schedulingPolicy = cluster.SCHED_RR;
  const leaving = new Set();
  cluster.on('exit', worker => leaving.delete(worker) || cluster.fork());

  async function start() {
    const worker = cluster.fork();
    const [address] = await once(worker, 'listening');
    return address.port;
  }
  async function reload() {
    for (const old of Object.values(cluster.workers)) {
      await start();
      leaving.add(old);
      const end = once(old, 'exit');
      old.send('leave');
      await end;
    }
    console.log('reloaded');
  }

  let port;
  for (let i = 0; i < Number(process.argv[2]); i++) port = await start();
  console.log(port);
  const lines = createInterface({ input: process.stdin });
  lines.on('line', line => line === 'reload' && reload());
  lines.on('close', () => {
    for (const worker of Object.values(cluster.workers)) worker.process.kill('SIGKILL');
    process.exit();
  });
} else {
  process.env.PORT = '0';
  await import('./ws-app.mjs');
}
