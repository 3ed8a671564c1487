// A pipeline's page: what its stages do now, what a picture costs, where the last ones spent their time.
// Text goes in by textContent only.

const key = () => sessionStorage.getItem("trimtab-key") || "";

async function figures() {
  const headers = key() ? { Authorization: `Bearer ${key()}` } : {};
  const answer = await fetch("/console/api/pipeline", { headers });
  if (answer.status === 401) {
    const given = window.prompt("This server wants a key");
    if (given) sessionStorage.setItem("trimtab-key", given);
    throw new Error("a key is needed");
  }
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.json();
}

function fill(id, rows) {
  const body = document.querySelector(`#${id} tbody`);
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    for (const cell of cells) {
      const place = document.createElement("td");
      if (cell instanceof Node) place.append(cell);
      else place.textContent = cell;
      row.append(place);
    }
    return row;
  }));
}

function bar(parts, total) {
  const line = document.createElement("span");
  line.className = "bar";
  const largest = Object.entries(parts).sort((a, b) => b[1] - a[1]).slice(0, 6);
  for (const [name, value] of largest) {
    const part = document.createElement("meter");
    part.max = total || 1;
    part.value = value;
    part.title = `${name}: ${value.toFixed(1)} ms`;
    const words = document.createElement("small");
    words.textContent = `${name} ${value.toFixed(1)}`;
    line.append(part, words);
  }
  return line;
}

function show(seen) {
  document.querySelector("#name").textContent = seen.name;
  const done = seen.outcomes.done || 0;
  document.querySelector("#state").textContent =
    `${seen.in_work} in work · ${done} done · ${seen.items} crops · ${seen.megapixels.toFixed(1)} megapixels`;
  fill("stages", seen.stages.map((one) => [
    one.name, one.waiting, `${one.running} of ${one.workers}`, one.batches,
    one.batches ? (one.units / one.batches).toFixed(2) : "–",
  ]));
  const all = Object.values(seen.cpu_s).reduce((sum, value) => sum + value, 0);
  const shares = Object.entries(seen.cpu_s).sort((a, b) => b[1] - a[1]);
  fill("shares", shares.map(([name, value]) => [
    name, done ? ((value / done) * 1000).toFixed(2) : "–", all ? `${((value / all) * 100).toFixed(1)} %` : "–",
  ]));
  fill("recent", [...seen.recent].reverse().slice(0, 20).map((one) => [
    `${one.width} × ${one.height}`, one.items, one.total_ms.toFixed(1), bar(one.stages_ms, one.total_ms),
  ]));
}

async function loop() {
  try {
    show(await figures());
  } catch (error) {
    document.querySelector("#state").textContent = String(error.message || error);
  }
  setTimeout(loop, 2000);
}

loop();
