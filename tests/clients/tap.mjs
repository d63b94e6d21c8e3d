// A line per check, as TAP does. Exits 1 if one failed.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

let number = 0, failed = 0;

/** Runs one check; what it throws is shown. Checks hang on nothing: each has a deadline. */
export async function check(name, body, seconds = 30) {
  let timer;
  const deadline = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${seconds} s`)), seconds * 1000);
  });
  try {
    await Promise.race([body(), deadline]);
    console.log(`ok ${++number} - ${name}`);
  } catch (error) {
    failed++;
    console.log(`not ok ${++number} - ${name}\n${String(error.stack ?? error).replace(/^/gm, '  # ')}`);
  } finally {
    clearTimeout(timer);
  }
}

export function done() {
  console.log(`1..${number}`);
  process.exit(failed ? 1 : 0);
}

export function url(path, scheme = 'ws') {
  const { BATON_URL } = process.env;
  if (!BATON_URL) {
    console.error('BATON_URL is not set');
    process.exit(2);
  }
  return new URL(path, BATON_URL.replace(/^http/, scheme)).href;
}

/** A module as baton serves it, which is what is to be tested. */
export async function served(path) {
  const response = await fetch(url(path, 'http'));
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  const dir = await mkdtemp(join(tmpdir(), 'served-'));
  try {
    const file = join(dir, 'module.mjs');
    await writeFile(file, await response.text());
    return await import(pathToFileURL(file).href);
  } finally {
    await rm(dir, { recursive: true });
  }
}
