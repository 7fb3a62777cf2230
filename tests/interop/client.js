// Runs in the environment of @dbos-inc/dbos-sdk 4.7: one call of its client for each line read, one answer for each.

const { DBOSClient } = require('@dbos-inc/dbos-sdk');
const readline = require('node:readline');

let client;
// JSON has no dates, maps and sets: {"$js": "new Date(0)"} is what that says.
const revived = (value) => JSON.parse(JSON.stringify(value), (_, each) => (each && each.$js ? eval(each.$js) : each));
const shown = (_, value) => (value instanceof Map ? [...value] : typeof value === 'bigint' ? `${value}n` : value);

const calls = {
  async connect(_, url) {
    await calls.close();
    client = await DBOSClient.create({ systemDatabaseUrl: url });
    client.systemDatabase.dbPollingIntervalResultMs = 50;
  },
  async close() {
    if (client) await client.destroy();
    client = undefined;
  },
  async enqueue({ id, deduplication, timeout, priority }, workflow, queue, args) {
    const handle = await client.enqueue(
      {
        workflowName: workflow,
        queueName: queue,
        workflowID: id,
        deduplicationID: deduplication,
        workflowTimeoutMS: timeout && timeout * 1000,
        priority,
      },
      ...revived(args),
    );
    return handle.workflowID;
  },
  result: (_, id) => client.retrieveWorkflow(id).getResult(),
  async status(_, id) {
    const found = await client.retrieveWorkflow(id).getStatus();
    return {
      id: found.workflowID,
      status: found.status,
      name: found.workflowName,
      input: found.input?.args ?? found.input,
      output: found.output ?? null,
      forked_from: found.forkedFrom ?? null,
    };
  },
  async listed({ prefix, status, name, queue_name }) {
    const filter = { workflow_id_prefix: prefix, status, workflowName: name, queueName: queue_name };
    return (await client.listWorkflows(filter)).map((each) => each.workflowID);
  },
  steps: async (_, id) =>
    (await client.listWorkflowSteps(id)).map((each) => [
      each.functionID,
      each.name,
      each.output,
      each.error && `${each.error.name}: ${each.error.message}`,
    ]),
  send: (_, id, message, topic, key) => client.send(id, revived(message), topic ?? undefined, key ?? undefined),
  event: (_, id, key) => client.getEvent(id, key, 5),
  async stream(_, id, key) {
    const values = [];
    for await (const value of client.readStream(id, key)) values.push(value);
    return values;
  },
  cancel: (_, id) => client.cancelWorkflow(id),
  resume: (_, id) => client.resumeWorkflow(id),
  fork: (_, id, step) => client.forkWorkflow(id, step),
  // Their client has no such call: this is what `DBOS.deleteWorkflow` does, on the client's connection.
  delete: (_, id, children) => client.systemDatabase.deleteWorkflow(id, children),
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const { call, args, options } = JSON.parse(line);
    let answer;
    try {
      answer = { value: (await calls[call](options, ...args)) ?? null };
    } catch (error) {
      answer = { error: error.name, message: error.message };
    }
    console.log(JSON.stringify(answer, shown));
  }
})();
