// Prints what @asyncapi/parser has against a document, one JSON object.
import { readFileSync } from "node:fs";
import { AvroSchemaParser } from "@asyncapi/avro-schema-parser";
import { Parser } from "@asyncapi/parser";

const parser = new Parser();
parser.registerSchemaParser(AvroSchemaParser());
const { document, diagnostics } = await parser.parse(readFileSync(process.argv[2], "utf8"));
console.log(
  JSON.stringify({
    operations: document?.operations().length ?? 0,
    diagnostics: diagnostics.map(({ code, message, path }) => `${path.join(".")}: ${message} (${code})`),
  }),
);
