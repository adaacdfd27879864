// Reads a message on stdin; the arguments are what DNS would answer: name, text, name, text ...
import { readFileSync } from 'node:fs';
import { dkimVerify } from 'mailauth/lib/dkim/verify.js';

const zone = new Map();
for (let at = 2; at < process.argv.length; at += 2) zone.set(process.argv[at], process.argv[at + 1]);

const resolver = async (name, type) => {
  if (type === 'TXT' && zone.has(name)) return [[zone.get(name)]];
  throw Object.assign(new Error(`${name} ${type}`), { code: 'ENOTFOUND' });
};
const { results } = await dkimVerify(readFileSync(0), { resolver, minBitLength: 1024 });
for (const { algo, signingDomain, selector, status } of results) {
  console.log(algo, signingDomain, selector, status.result);
}
