// The operators' page in a real browser, while baton is reloaded and killed.
//
//   with-baton --config tests/clients/operators.toml --key k node tests/clients/operators.mjs
//   with-baton node tests/clients/operators.mjs --picture tests/operators.png    the README's picture
//
// CHROMIUM   the browser to run (default /usr/bin/chromium)

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { Worker } from 'node:worker_threads';
import { chromium } from 'playwright-core';
import WebSocket from 'ws';
import { check, done, url } from './tap.mjs';

const { BATON_ADMIN_URL, BATON_RUN_DIR, BATON_MASTER, BATON_SECRET, CHROMIUM = '/usr/bin/chromium' } = process.env;
const [flag, picture] = process.argv.slice(2);

const run = promisify(execFile);
const order = async (...args) => (await run(BATON_MASTER, [...args, '--run-dir', BATON_RUN_DIR])).stdout;
const status = async () => JSON.parse(await order('status', '--json'));
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

/** So many members of a room. */
async function members(room, many) {
  return Promise.all(Array.from({ length: many }, async () => {
    const socket = new WebSocket(url('/rooms'));
    await once(socket, 'open');
    socket.on('error', () => {});
    socket.send(JSON.stringify({ id: 1, join: room }));
    return socket;
  }));
}

/** Comments, so many a second. */
const talk = (room, rate) =>
  new Worker(new URL('./burst.mjs', import.meta.url), { workerData: { url: url('/rooms'), room, rate } });

// Chromium's sandbox refuses to run as root.
const browser = await chromium.launch({ executablePath: CHROMIUM, args: process.getuid() === 0 ? ['--no-sandbox'] : [] });
const complaints = [];

async function open(options = {}) {
  const page = await (await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options })).newPage();
  page.setDefaultTimeout(15_000);
  page.on('console', message => ['error', 'warning'].includes(message.type()) && complaints.push(message.text()));
  page.on('pageerror', error => complaints.push(String(error)));
  await page.goto(BATON_ADMIN_URL);
  await page.locator('#state[data-state=open]').waitFor();
  return page;
}

/** Until the text of this element is like that. */
async function until(page, selector, pattern) {
  const read = ([selector, source]) => new RegExp(source).test(document.querySelector(selector)?.textContent);
  await page.waitForFunction(read, [selector, pattern.source]).catch(async () => {
    throw new Error(`${selector} is "${await page.locator(selector).first().textContent()}", not ${pattern}`);
  });
}

const headline = (page, title) => page.locator('.chart', { has: page.locator(`h2:text-is("${title}")`) }).locator('output');

if (flag === '--picture') {
  await members('lobby', 180);
  const some = [await members('stage', 90), await members('news', 40), await members('team/seven', 12)].flat();
  [talk('lobby', 30), talk('stage', 10)].forEach(worker => worker.unref());
  const page = await open({ viewport: { width: 1200, height: 830 } });
  await page.selectOption('#span', '60');
  const later = [
    [10, () => order('reload')],
    [12, async () => process.kill((await status()).workers[0].pid, 'SIGKILL')],
    [10, () => order('scale', '3')],
    [4, () => some.forEach((socket, i) => i % 3 || setTimeout(() => i % 2 ? socket.close() : socket.terminate(), i * 40))],
    [12, () => members('lobby', 60)],
    [8, () => page.screenshot({ path: picture, fullPage: true })],
  ];
  for (const [seconds, what] of later) {
    await sleep(seconds * 1000);
    await what();
  }
  process.exit(0);
}

let page;
await check('figures come by themselves', async () => {
  const sockets = await members('a room of the test', 30);
  const talker = talk('a room of the test', 20);
  page = await open();
  await until(page, '#rooms', /a room of the test30/);
  await until(page, '#workers', /worker 1ready.*worker 2ready/);
  await page.waitForFunction(() => {
    const number = title => Number([...document.querySelectorAll('.chart')]
      .find(chart => chart.querySelector('h2').textContent === title).querySelector('output').textContent.replace(/[^0-9.]/g, ''));
    return number('Connections') >= 31 && number('Messages said') > 10 && number('Deliveries') > 300;
  });
  assert.match(await headline(page, 'Delivery takes').textContent(), /^[0-9.]+ ms$/);
  const pids = (await status()).workers.map(({ pid }) => pid);
  for (const pid of pids) await until(page, '#workers', new RegExp(`ready${pid}`));
  for (const socket of sockets) socket.close();
  await until(page, '#rooms-in-all', /^nobody is in a room$/);
  await talker.terminate();
  await page.waitForFunction(() => /[1-9]/.test(document.querySelector('.chart:last-child .legend')?.textContent));
}, 60);

await check('charts are drawn, and say in words what they show', async () => {
  await sleep(2500);
  const drawn = await page.locator('.chart canvas').evaluateAll(canvases => canvases.map(canvas => {
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const colors = new Set();
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 200) colors.add(data.slice(i, i + 3).join());
    return { colors: colors.size, label: canvas.getAttribute('aria-label') };
  }));
  assert.equal(drawn.length, 6);
  for (const { colors, label } of drawn) assert(colors > 2 && /[0-9–]/.test(label), `${label}: ${colors} colours`);
  await page.locator('.chart canvas').first().focus();
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('Escape');
});

await check('a reload, a crash and a scaling are told, and the page stays connected', async () => {
  const [{ pid }] = (await status()).workers;
  process.kill(pid, 'SIGKILL');
  await until(page, '#events', /recovery/);
  await order('reload');
  await until(page, '#events', /reload/);
  await order('scale', '3');
  await until(page, '#workers', /worker 3ready/);
  await until(page, '#events', /scale/);
  await order('scale', '2');
  await page.waitForFunction(() => document.querySelectorAll('#workers tr').length === 2);
  assert((await page.locator('#strip i').count()) >= 3, 'the strip shows them');
  assert.equal(await page.getAttribute('#state', 'data-state'), 'open');
}, 60);

await check('without a token one can only look', async () => {
  for (const id of ['reload', 'scale', 'workers-wanted']) assert(await page.locator(`#${id}`).isDisabled(), id);
});

await check('with one, it gives orders, and says what came of them', async () => {
  const sign = async token => {
    await page.click('#sign-in-button');
    await page.fill('#token', token);
    await page.click('#sign-in [value=use]');
    await page.locator('#state[data-state=open]').waitFor();
  };
  await sign('not the one');
  await page.click('#reload');
  await until(page, '#note', /^reload: .*token/i);
  complaints.splice(0);        // the console says 401, too
  await sign(BATON_SECRET);
  const guards = async () => (await status()).workers.map(({ guard_pid }) => guard_pid);
  const before = await guards();
  await page.click('#reload');
  await until(page, '#note', /^reload: done, in [0-9,]+ ms$/);
  assert((await guards()).every(pid => !before.includes(pid)), 'no worker was replaced');
  await page.fill('#workers-wanted', '3');
  await page.press('#workers-wanted', 'Enter');
  await until(page, '#note', /^scale: done/);
  assert.equal((await guards()).length, 3);
  await until(page, '#workers', /worker 3ready/);
  await page.click('#sign-in-button');
  await page.click('#sign-in [value=none]');
  await page.waitForFunction(() => document.querySelector('#reload').disabled);
}, 60);

await check('it fits a phone, and the dark', async () => {
  const narrow = await open({ viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true, colorScheme: 'dark' });
  await until(narrow, '#workers', /worker 1/);
  assert.equal(await narrow.evaluate(() => document.documentElement.scrollWidth), 360, 'it scrolls sideways');
  await narrow.context().close();
});

await check('nothing was said on any console', () => assert.deepEqual(complaints, []));

await browser.close();
done();
