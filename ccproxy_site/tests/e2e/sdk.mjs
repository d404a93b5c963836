// Anthropic's TypeScript SDK as a test drives it: a question as JSON on each line of stdin, what came of it on stdout.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const [, , folder, baseURL] = process.argv;
const Anthropic = createRequire(`${folder}/`)("@anthropic-ai/sdk").default;

async function streamed(client, ask) {
  let text = "";
  const stream = client.messages.stream(ask).on("text", (piece) => (text += piece));
  const message = await stream.finalMessage();
  return { text, message };
}

async function everyPage(client, ask) {
  const models = [];
  for await (const model of client.models.list(ask)) models.push(model);
  return models;
}

const calls = {
  stream: streamed,
  create: (client, ask) => client.messages.create(ask),
  count: (client, ask) => client.messages.countTokens(ask),
  list: everyPage,
  retrieve: (client, ask) => client.models.retrieve(ask.id),
};

function told(error) {
  const { status, type, message, requestID } = error;
  return { name: error.constructor.name, status, type, message, request_id: requestID };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { call, ask, options } = JSON.parse(line);
  try {
    const client = new Anthropic({ baseURL, maxRetries: 0, ...options });
    console.log(JSON.stringify({ answer: await calls[call](client, ask) }));
  } catch (error) {
    console.log(JSON.stringify({ error: told(error) }));
  }
}
