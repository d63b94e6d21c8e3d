// Says comments at a steady rate, until it is terminated: a thread of browser.mjs.

import { workerData } from 'node:worker_threads';
import WebSocket from 'ws';

const { url, room, rate } = workerData;
const WORDS = ['what a song', '哈哈哈哈哈哈', 'encore!', 'first time here, and I like it', '前方高能', '🎉🎉🎉', 'so good', 'greetings from Köln'];
const COLORS = ['#ffffff', '#ffe14d', '#6ec8ff', '#ff8ac2'];
const socket = new WebSocket(url);
socket.on('error', error => { throw error; });
socket.on('open', () => {
  const begin = performance.now();
  let said = 0;
  setInterval(() => {
    for (; said < (performance.now() - begin) / 1000 * rate; said++) {
      const data = { text: WORDS[said % WORDS.length], nick: `u${said % 50}`, color: COLORS[said % 7 % COLORS.length] };
      socket.send(JSON.stringify({ send: room, data }));
    }
  }, 20);
});
