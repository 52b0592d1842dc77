// Reads a JSON list of paths of GLB files on stdin; writes
// {version, files: {path: [a line for each error]}} as JSON.
const fs = require("fs");
const validator = require("gltf-validator");

const ERROR = 0; // of the validator's severities

async function main() {
  const answer = {};
  for (const path of JSON.parse(fs.readFileSync(0, "utf8"))) {
    // A file the validator cannot parse at all makes it reject the promise.
    const messages = await validator
      .validateBytes(new Uint8Array(fs.readFileSync(path)), { maxIssues: 100 })
      .then((report) => report.issues.messages)
      .catch((error) => [{ code: "UNREADABLE", message: String(error), severity: ERROR }]);
    const errors = messages.filter((message) => message.severity === ERROR);
    answer[path] = errors.map(({ code, message, pointer, offset }) => `${code} at ${pointer ?? `byte ${offset}`}: ${message}`);
  }
  process.stdout.write(JSON.stringify({ version: validator.version(), files: answer }));
}

main();
