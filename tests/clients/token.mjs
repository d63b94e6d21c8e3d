// Tokens, as whoever logs users in makes them: of the key that `with-baton --key k` gives the daemon.

import { createHmac } from 'node:crypto';

/** A token for this user, who may do so much (default: as configured), for so many seconds. */
export function token(sub, rooms, lasts = 60) {
  const part = value => Buffer.from(JSON.stringify(value)).toString('base64url');
  const message = `${part({ alg: 'HS256', kid: 'k' })}.${part({ sub, exp: Math.floor(Date.now() / 1000) + lasts, rooms })}`;
  return `${message}.${createHmac('sha256', process.env.BATON_SECRET).update(message).digest('base64url')}`;
}
