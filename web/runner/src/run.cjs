// Runs the tests of the module beside this, those whose names have the filter in them.

// Node 18 has it, but not as a global yet.
globalThis.crypto ??= require('node:crypto').webcrypto;

// What wasm-bindgen-test calls; it is one with the tests, and of the version that Cargo.toml says.
globalThis.__wbg_test_invoke = test => test();
globalThis.__wbgtest_og_console_log = console.log;
globalThis.__wbgtest_og_console_error = console.error;

const wasm = require('./tests.js');

// What a test says belongs to it, and is shown if it fails.
for (const method of ['debug', 'log', 'info', 'warn', 'error'])
    console[method] = (...words) => wasm[`__wbgtest_console_${method}`](words);

async function main(filter = '') {
    const tests = Object.keys(wasm.__wasm).filter(name => name.startsWith('__wbgt_'));
    const chosen = tests.filter(name => name.includes(filter));
    if (tests.length === 0)
        throw new Error('no tests: are they marked with #[wasm_bindgen_test]?');
    const cx = new wasm.WasmBindgenTestContext(false);
    cx.filtered_count(tests.length - chosen.length);
    return cx.run(chosen.map(name => wasm.__wasm[name]));
}

main(...process.argv.slice(2)).then(
    passed => process.exit(passed ? 0 : 1),
    error => {
        globalThis.__wbgtest_og_console_error(error);
        process.exit(1);
    },
);
