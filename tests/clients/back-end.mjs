// A back end that baton asks: run it, and say url = "http://127.0.0.1:9000/" in [[hook]].
import { createServer } from 'node:http';

function decide(event) {
  if (event.event === 'connect') {
    const user = (event.headers.cookie ?? '').replace(/^user=/, '');
    return user ? { allow: true, user } : { allow: false, message: 'who are you?' };
  }
  return { allow: !JSON.stringify(event.data ?? null).includes('spam'), message: 'no spam' };
}

createServer(async (request, response) => {
  let body = '';
  for await (const piece of request.setEncoding('utf8')) body += piece;
  const results = JSON.parse(body).events.map((e) => ({ n: e.n, ...decide(e) }));
  response.end(JSON.stringify({ results }));
}).listen(Number(process.argv[2]), '127.0.0.1');
