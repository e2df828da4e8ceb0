// DWC's CLIP stream in plain JavaScript: from a picture and a text to a ranking, in the reader's browser.
//
// Numbers stand in Float32Arrays; of a matrix, row after row. Above each function stands its equation, in
// the symbols of the page "Notation". dwclib/book/live.py writes the weights, and a test holds all scores
// against PyTorch's.
(() => {
  "use strict";
  const HERE = document.currentScript.src, SHEET = new URL("live/pictures.webp", HERE).href;
  let weights, words, marks, heads; // of the model
  let vectors, shows, queries, across; // of the gallery: all y_j, what they show, and what was asked

  // --- Arithmetic -------------------------------------------------------------------

  const relu = (x) => x.map((u) => Math.max(0, u)); // max(0, u)
  const sigmoid = (x) => x.map((u) => 1 / (1 + Math.exp(-u))); // s(u) = 1 / (1 + e^-u)
  const gelu = (x) => x.map((u) => (u * (1 + erf(u / Math.SQRT2))) / 2); // u Φ(u)
  const times = (a, b) => a.map((u, i) => u * b[i]); // a * b
  const plus = (a, b) => a.map((u, i) => u + b[i]); // a + b
  const pair = (a, b) => Float32Array.of(...a, ...b); // [a; b]

  // erf(u) = 2/√π e^(-u²) Σ_k 2^k u^(2k+1) / (1 · 3 · 5 ... (2k+1)), of which all terms have one sign
  function erf(u) {
    if (Math.abs(u) > 5) return Math.sign(u);
    let term = u, sum = u;
    for (let k = 1; Math.abs(term) > 1e-9 * Math.abs(sum); k++) {
      term *= (2 * u * u) / (2 * k + 1);
      sum += term;
    }
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-u * u) * sum;
  }

  // y = W x + b, for each row x
  function linear(x, layer) {
    const W = weights[`${layer}.weight`], b = weights[`${layer}.bias`];
    const wide = b ? b.length : W.length / x.length, deep = W.length / wide;
    const y = new Float32Array((x.length / deep) * wide);
    for (let at = 0, row = 0; row < x.length; row += deep) {
      for (let o = 0; o < W.length; o += deep, at++) {
        let sum = b ? b[o / deep] : 0;
        for (let i = 0; i < deep; i++) sum += W[o + i] * x[row + i];
        y[at] = sum;
      }
    }
    return y;
  }

  // n(x) = x / |x|
  function normalise(x) {
    const length = Math.sqrt(x.reduce((sum, u) => sum + u * u, 0));
    return x.map((u) => u / Math.max(length, 1e-12));
  }

  // y = g * (x - mean(x)) / √(var(x) + ε) + b, for each row x
  function layerNorm(x, layer) {
    const g = weights[`${layer}.weight`], b = weights[`${layer}.bias`], wide = g.length;
    const y = new Float32Array(x.length);
    for (let row = 0; row < x.length; row += wide) {
      let mean = 0, variance = 0;
      for (let i = 0; i < wide; i++) mean += x[row + i] / wide;
      for (let i = 0; i < wide; i++) variance += (x[row + i] - mean) ** 2 / wide;
      for (let i = 0; i < wide; i++) {
        y[row + i] = (g[i] * (x[row + i] - mean)) / Math.sqrt(variance + 1e-5) + b[i];
      }
    }
    return y;
  }

  // --- CLIP reads the text: w = CLIP_T(text), a transformer over word pieces ---------

  // a_l = Σ_m softmax_m(q_l · k_m / √d) v_m, in each head, over the pieces m ≤ l
  function attend(qkv, wide) {
    const d = wide / heads, rows = qkv.length / (3 * wide), out = new Float32Array(rows * wide);
    for (let h = 0; h < wide; h += d) {
      for (let l = 0; l < rows; l++) {
        const share = [];
        for (let m = 0; m <= l; m++) {
          let dot = 0;
          for (let i = h; i < h + d; i++) dot += qkv[3 * wide * l + i] * qkv[3 * wide * m + wide + i];
          share.push(dot / Math.sqrt(d));
        }
        const most = Math.max(...share), powers = share.map((s) => Math.exp(s - most));
        const sum = powers.reduce((a, b) => a + b);
        for (let i = h; i < h + d; i++) {
          let mixed = 0;
          for (let m = 0; m <= l; m++) mixed += (powers[m] / sum) * qkv[3 * wide * m + 2 * wide + i];
          out[wide * l + i] = mixed;
        }
      }
    }
    return out;
  }

  // x ← x + W attend(LN(x)), then x ← x + MLP(LN(x)), block after block; the last piece holds the text
  function readText(pieces) {
    const table = weights["token_embedding.weight"], places = weights["positional_embedding"];
    const wide = weights["ln_final.bias"].length;
    let x = new Float32Array(pieces.length * wide);
    pieces.forEach((piece, l) => {
      for (let i = 0; i < wide; i++) x[l * wide + i] = table[piece * wide + i] + places[l * wide + i];
    });
    for (let k = 0; `transformer.resblocks.${k}.ln_1.bias` in weights; k++) {
      const block = `transformer.resblocks.${k}`;
      const qkv = linear(layerNorm(x, `${block}.ln_1`), `${block}.attn.in_proj`);
      x = plus(x, linear(attend(qkv, wide), `${block}.attn.out_proj`));
      const hidden = gelu(linear(layerNorm(x, `${block}.ln_2`), `${block}.mlp.c_fc`));
      x = plus(x, linear(hidden, `${block}.mlp.c_proj`));
    }
    return linear(layerNorm(x.slice(-wide), "ln_final"), "text_projection");
  }

  // --- DWC composes the query --------------------------------------------------------

  // W₂ ReLU(W₁ [a; b] + b₁) + b₂: gates and combiner share this form
  function read(mlp, a, b) {
    const hidden = relu(linear(pair(a, b), `${mlp}.0`));
    return linear(hidden, `${mlp}.3`);
  }

  // v = n(head_I(x)), which the gallery holds, and t = n(head_T(w)),
  //   head(u) = ReLU(W u + b)
  // v' = gate_I([v; t]) * v and t' = gate_T([v; t]) * t,  gate = s(MLP)
  // λ = s(MLP([v'; t']))
  function compose(reference, pieces) {
    const wide = vectors.length / shows.length;
    const v = vectors.subarray(wide * reference, wide * (reference + 1));
    const t = normalise(relu(linear(readText(pieces), "text_head.0")));
    const imageGate = sigmoid(read("editors.image.mlp", v, t));
    const textGate = sigmoid(read("editors.text.mlp", v, t));
    const image = times(imageGate, v), text = times(textGate, t);
    const lambda = sigmoid(read("combiner.mlp", image, text))[0];
    return { reference, image, text, imageGate, textGate, lambda };
  }

  // q = n(λ v' + (1 - λ) t')
  const mix = ({ image, text }, lambda) =>
    normalise(image.map((u, i) => lambda * u + (1 - lambda) * text[i]));

  // score_j = q · y_j
  function scoresOf(q) {
    const scores = new Float32Array(shows.length);
    for (let j = 0, at = 0; j < scores.length; j++) {
      let sum = 0;
      for (let i = 0; i < q.length; i++, at++) sum += q[i] * vectors[at];
      scores[j] = sum;
    }
    return scores;
  }

  // The first k pictures by score, without the reference; of equal ones, the
  // earlier first.
  function rank(scores, reference, k = 10) {
    const best = [];
    scores.forEach((score, j) => {
      if (j === reference) return;
      let place = best.length;
      while (place > 0 && score > scores[best[place - 1]]) place--;
      best.splice(place, 0, j);
      best.length = Math.min(best.length, k);
    });
    return best;
  }

  // --- the end of the method ---------------------------------------------------------

  // --- What is written in the text box -----------------------------------------------

  // Word pieces between the marks of start and end, or what the reader should do instead. Signs but commas
  // stand in no text of the book, and are passed over.
  function piecesOf(said) {
    const found = said.toLowerCase().replace(/[.!?;:'"()“”‘’…\-]/g, " ").match(/,|[^\s,]+/g) ?? [];
    const most = weights["positional_embedding"].length / weights["ln_final.bias"].length - 2;
    const pieces = found.flatMap((word) => words.get(word) ?? [-1]);
    const unknown = [...new Set(found.filter((word) => !words.has(word)))];
    const signs = unknown.filter((word) => !/\p{L}|\p{N}/u.test(word));
    if (found.every((word) => word === ",")) return { problem: SAY.empty };
    if (pieces.length > most) return { problem: SAY.long(most, pieces.length) };
    if (signs.length) return { problem: SAY.signs(quoted(signs)) };
    if (unknown.length) return { problem: SAY.unknown(unknown.length, quoted(unknown)) };
    return { pieces: [marks[0], ...pieces, marks[1]] };
  }

  const quoted = (some) =>
    some.slice(0, 3).map((word) => `“${word}”`).join(", ") + (some.length > 3 ? " ..." : "");

  const SAY = {
    loading: "Loading weights and pictures ...",
    missing: "Weights or pictures did not arrive: reload the page. The example stays as it is.",
    empty: "Say what should change, or take a suggestion: without a text, there are only look-alikes to find.",
    long: (most, n) => `Shorten the text: this small CLIP reads ${most} pieces of words, and these are ${n}.`,
    signs: (some) => `This small CLIP reads words only: leave out ${some}, and say it in words.`,
    unknown: (n, some) =>
      `This small CLIP never read ${n > 1 ? "these words" : "that word"}: ${some}. ` +
      "Use others; all that it reads stand at the end.",
    silent: "No annotator spoke of this garment: say yourself what should change.",
    free: "Nothing is marked: the judge knows the right answers to suggestions, not to a text of your own.",
  };

  // --- Weights and gallery, loaded on the first touch --------------------------------

  function load() {
    return (load.done ??= Promise.all([sheet(), ...["model.js", "gallery.js"].map(run)]).then(() => {
      ({ marks, heads } = DWC_MODEL);
      words = new Map(Object.entries(DWC_MODEL.words));
      weights = {};
      for (const [name, one] of Object.entries(DWC_MODEL.tensors)) weights[name] = unpack(one);
      ({ shows, queries, across } = DWC_GALLERY);
      vectors = unpack(DWC_GALLERY.vectors);
    }));
  }

  const sheet = () => Object.assign(new Image(), { src: SHEET }).decode(); // no card is blank for long

  const run = (name) =>
    new Promise((done, fail) => {
      const script = document.createElement("script");
      Object.assign(script, { src: new URL(`live/${name}`, HERE), onload: done, onerror: fail });
      document.head.append(script);
    });

  function unpack({ f32, f16 }) {
    const bytes = Uint8Array.from(atob(f32 ?? f16), (letter) => letter.charCodeAt(0)).buffer;
    return f32 ? new Float32Array(bytes) : Float32Array.from(new Uint16Array(bytes), fromHalf);
  }

  // (-1)^sign 2^(exponent - 15) (1 + fraction / 1024); with exponent 0, the small numbers around zero
  function fromHalf(bits) {
    const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return exponent ? sign * 2 ** (exponent - 25) * (1024 + fraction) : sign * 2 ** -24 * fraction;
  }

  // --- The page ----------------------------------------------------------------------

  const form = document.querySelector("form.live");
  const part = (selector) => form.querySelector(selector);
  const all = (selector) => form.querySelectorAll(selector);
  const text = part("#live-text"), weight = part("#live-weight"), say = part(".live-say");
  const chosen = part(".live-chosen button"), said = part(".live-said"), tick = part(".live-tick");
  const numberOf = (card) => Number(card.dataset.picture);
  let query = null;

  // Where picture j stands in the sheet of all, as CSS has it.
  function place(j) {
    const right = (j % across) / (across - 1), rows = Math.ceil(shows.length / across);
    return `${100 * right}% ${(100 * Math.floor(j / across)) / Math.max(1, rows - 1)}%`;
  }

  // Turn a card to a picture.
  function turn(card, j, right = false) {
    card.dataset.picture = j;
    card.title = card.ariaLabel = shows[j] + (right ? ", right" : "");
    card.classList.toggle("right", right);
    card.style.backgroundPosition = place(j);
  }

  // Show the sheet of all pictures in place of the few that the page brings along, with the same answers.
  function open() {
    form.style.setProperty("--across", across);
    form.style.setProperty("--down", Math.ceil(shows.length / across));
    form.style.setProperty("--sheet", `url("${SHEET}")`);
    form.classList.add("loaded");
    for (const card of all(".live-card")) turn(card, numberOf(card));
    const held = weight.value;
    ask(text.defaultValue);
    weight.value = held;
    weigh();
  }

  // Begin with a garment: with what annotators said of it, the first of that as the text.
  function choose(j) {
    turn(chosen, j);
    for (const card of all(".live-starts button")) card.ariaPressed = numberOf(card) === j;
    const own = queries.filter(({ reference }) => reference === j);
    part(".live-suggestions").replaceChildren(...own.map(suggestion));
    if (own.length) text.value = own[0].text;
    else if (piecesOf(text.value).problem) text.value = query.asked; // the last one that was answered
    ask(text.value);
    if (!own.length) say.textContent ||= SAY.silent;
  }

  function suggestion({ text }) {
    const item = document.createElement("li"), button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: text });
    item.append(button);
    return item;
  }

  // Answer a text about the chosen garment.
  function ask(asked) {
    const { pieces, problem } = piecesOf(asked);
    say.textContent = problem ?? "";
    text.ariaInvalid = Boolean(problem);
    if (problem) return;
    const reference = numberOf(chosen), same = asked.trim();
    const known = queries.find((one) => one.reference === reference && one.text === same);
    query = { ...compose(reference, pieces), asked: same, right: known?.right };
    weight.value = query.lambda;
    tick.style.setProperty("--at", query.lambda);
    tick.lastElementChild.textContent = query.lambda.toFixed(2);
    show("image", 1);
    show("text", 0);
    draw("image", query.imageGate);
    draw("text", query.textGate);
    weigh();
  }

  // Rank by the weight under the reader's hand; the learned one counts with all its digits.
  function weigh() {
    const learned = query.lambda.toFixed(2), now = Number(weight.value).toFixed(2);
    said.textContent = verdict(show("mix", now === learned ? query.lambda : Number(now)));
    part("output").textContent = now;
    weight.ariaValueText = `${now}, learned ${learned}`;
  }

  function show(ranking, lambda) {
    const found = rank(scoresOf(mix(query, lambda)), query.reference);
    all(`[data-ranking=${ranking}] button`).forEach((card, place) =>
      turn(card, found[place], query.right?.includes(found[place])),
    );
    return found;
  }

  function verdict(found) {
    if (!query.right) return SAY.free;
    const ranks = found.flatMap((j, place) => (query.right.includes(j) ? [place + 1] : []));
    const first = ranks.length ? `, the first at rank ${ranks[0]}` : "";
    return `Right answers among these: ${ranks.length} of ${query.right.length}${first}.`;
  }

  // A bar for each feature, as high as its gate is open.
  function draw(which, gate) {
    const bars = Array.from(gate, (open, i) => `M${i} 1V${(1 - open).toFixed(3)}h.8V1z`);
    part(`[data-gate=${which}] path`).setAttribute("d", bars.join(""));
  }

  // The first touch loads; until then, and where that fails, the example stays.
  async function touched(act) {
    try {
      if (!weights) say.textContent = SAY.loading;
      await load();
    } catch {
      load.done = undefined;
      say.textContent = SAY.missing;
      return;
    }
    if (!form.classList.contains("loaded")) open();
    act?.();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    touched(() => ask(text.value));
  });
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.isComposing) return;
    event.preventDefault();
    form.requestSubmit();
  });
  form.addEventListener("click", ({ target }) => {
    const button = target.closest("button[type=button]");
    if (button?.dataset.picture) touched(() => choose(numberOf(button)));
    else if (button?.matches(".live-learned")) touched(() => ((weight.value = query.lambda), weigh()));
    else if (button) touched(() => ask((text.value = button.textContent)));
  });
  // Who only passes by with the tabulator has touched nothing.
  form.addEventListener("pointerdown", () => touched());
  text.addEventListener("input", () => touched());
  weight.addEventListener("input", () => touched(weigh));
  part("fieldset").disabled = false;

  window.dwcLive = { load, piecesOf, compose, mix, scoresOf, rank }; // for the console, and for the test
})();
