// What every feature needs: registering it, running it, and saying how it ended.
'use strict';

const {randomBytes} = require('crypto');

// A feature that has not ended by then has failed.
const SECONDS = 30;

const FEATURES = [];

exports.feature = (name, work) => FEATURES.push([name, work]);

exports.unique = prefix => `${prefix}-${randomBytes(8).toString('hex')}`;

exports.until = (seconds, promise) =>
  Promise.race([
    promise,
    new Promise((_, reject) => {
      setTimeout(() => reject(new Error(`nothing within ${seconds} s`)), seconds * 1000).unref();
    }),
  ]);

// Checks that a call is refused with a code, and not otherwise.
exports.refuses = async (code, call) => {
  let error;
  try {
    await call();
  } catch (caught) {
    error = caught;
  }
  if (!error) throw new Error(`code ${code} was wanted, and nothing was refused`);
  if (error.code !== code) throw error;
};

// Runs the features, a few at a time, and prints one JSON line for each.
exports.run = async () => {
  const only = process.argv[2] ?? '';
  const left = FEATURES.filter(([name]) => name.includes(only));
  const worker = async () => {
    for (let next = left.shift(); next; next = left.shift()) {
      const [feature, work] = next;
      let [result, why] = ['pass', ''];
      try {
        await exports.until(SECONDS, work());
      } catch (error) {
        why = `${error.code ?? error.name}: ${error.message}`;
        // 12 is UNIMPLEMENTED.
        const unimplemented = [12, 501, '501'].includes(error.code);
        result = unimplemented && error.message.length > 10 ? 'refused' : 'fail';
        if (only) console.error(error);
      }
      console.log(JSON.stringify({feature, result, why: why.slice(0, 300)}));
    }
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
  process.exit(0);
};
