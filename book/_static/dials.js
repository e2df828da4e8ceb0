// Figures that answer a dial.
//
// A notebook says in a sentence what to try, and where: <div class="dial" data-dial="gem"></div>. What a dial
// needs of the numbers computed there stands on the page as well, <script type="application/json"
// data-dial="labels">, put there by dwclib/book/dials.py. Each function under "The dials" builds its controls
// and returns how to draw what they say. A test moves the controls by keyboard and holds what is then shown
// against dwclib.
(() => {
  "use strict";

  // --- The method -------------------------------------------------------------------

  const sum = (x) => x.reduce((a, b) => a + b, 0);
  const mean = (x) => sum(x) / x.length;
  const dot = (a, b) => sum(a.map((u, i) => u * b[i]));
  const within = (x, least, most) => Math.min(most, Math.max(least, x));

  // softmax_j(x) = e^(x_j) / Σ_k e^(x_k)
  function softmax(x) {
    const powers = x.map((u) => Math.exp(u - Math.max(...x)));
    return powers.map((u) => u / sum(powers));
  }

  // GeM(z) = (mean_k max(z_k, ε)^γ)^(1/γ); dividing by the largest cancels out
  function pool(z, gamma) {
    const held = z.map((u) => Math.max(u, 1e-6)), largest = Math.max(...held);
    return largest * mean(held.map((u) => (u / largest) ** gamma)) ** (1 / gamma);
  }

  // ρ = λ |v'| / (λ |v'| + (1 - λ) |t'|)
  const effectiveShare = (lambda, v, t) => (lambda * v) / (lambda * v + (1 - lambda) * t);

  // P_ij = 1[c_i = c_j] / Σ_k 1[c_i = c_k]
  const hardLabels = (c) =>
    c.map((own) => c.map((other) => (other === own) / c.filter((one) => one === own).length));

  // Z = α softmax_rows(Y Yᵀ / τ) + (1 - α) P
  const softLabels = (cosines, P, alpha, tau) =>
    cosines.map((row, i) => softmax(row.map((u) => u / tau)).map((u, j) => alpha * u + (1 - alpha) * P[i][j]));

  // KL(b ‖ a) = Σ_j b_j (log b_j - log a_j)
  const divergence = (b, a) => sum(b.map((u, j) => u * (Math.log(u) - Math.log(a[j]))));

  // --- Controls ---------------------------------------------------------------------

  const maker = (space) => (tag, attributes = {}, ...inside) => {
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...inside);
    return made;
  };
  const html = maker("http://www.w3.org/1999/xhtml"), svg = maker("http://www.w3.org/2000/svg");
  const moved = (part) => part.dispatchEvent(new Event("input", { bubbles: true }));
  const written = (value, digits) => value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");

  // A label, a slider, and where it stands: at one of `values`, or anywhere `from` a number `to` another.
  function slider(form, label, start, { values, from = 0, to = values.length - 1, step = 1, unit = "" }) {
    const id = `${form.id}-${form.children.length}`, digits = String(step).split(".")[1]?.length ?? 0;
    const input = html("input", { type: "range", id, min: from, max: to, step }), output = html("output", { for: id });
    const control = {
      get value() {
        return values ? values[input.value] : Number(input.value);
      },
      set value(wanted) {
        input.value = values ? values.indexOf(wanted) : wanted;
        tell();
      },
    };
    function tell() {
      output.textContent = (values ? String(control.value) : written(control.value, digits)) + unit;
      input.setAttribute("aria-valuetext", output.textContent);
    }
    input.addEventListener("input", tell);
    form.append(html("div", { class: "dial-line" }, html("label", { for: id }, label), input, output));
    control.value = start;
    return control;
  }

  // One of several names, each a button of a group; the arrow keys go from one to the next.
  function choice(form, label, names, start) {
    const group = html("fieldset", { class: "dial-choice" }, html("legend", {}, label));
    for (const name of names) {
      const input = html("input", { type: "radio", name: `${form.id}-${label}`, value: name });
      input.checked = name === start;
      group.append(html("label", {}, input, html("span", {}, name)));
    }
    form.append(group);
    return { group, get value() { return group.querySelector(":checked").value; } };
  }

  // Several names, each of which can be ticked; `value` has those that are.
  function ticks(form, label, names) {
    const group = html("fieldset", { class: "dial-choice" }, html("legend", {}, label));
    for (const name of names) {
      group.append(html("label", {}, html("input", { type: "checkbox", value: name }), html("span", {}, name)));
    }
    form.append(group);
    return { get value() { return [...group.querySelectorAll(":checked")].map((input) => input.value); } };
  }

  function buttons(form, acts) {
    const row = html("p", { class: "dial-buttons" });
    for (const [name, act] of Object.entries(acts)) {
      const button = html("button", { type: "button" }, name);
      button.addEventListener("click", () => (act(), moved(button)));
      row.append(button);
    }
    form.append(row);
  }

  // --- Figures ----------------------------------------------------------------------

  function figure(form, height, says) {
    const stage = svg("svg", { viewBox: `0 0 360 ${height}`, role: "img", "aria-label": says });
    form.append(stage);
    return stage;
  }

  const write = (x, y, text, kind = "", anchor = "start") =>
    svg("text", { x, y, class: kind, "text-anchor": anchor }, text);
  const line = (x1, y1, x2, y2, kind = "thin") => svg("line", { x1, y1, x2, y2, class: kind });
  const box = (x, y, width, height, kind, more = {}) =>
    svg("rect", { x, y, width: Math.max(0, width), height: Math.max(0, height), class: kind, ...more });
  const spot = (x, y, kind, r = 5) => svg("circle", { cx: x, cy: y, r, class: kind });

  // The sentence under a figure; a number in it can be read exactly by a program.
  const sentence = (form) => form.appendChild(html("p", { class: "dial-said", role: "status" }));
  const number = (fact, value, digits = 2) => html("data", { "data-fact": fact, value }, written(value, digits));
  const percent = (fact, value, digits = 0) =>
    html("data", { "data-fact": fact, value }, `${written(100 * value, digits)}\u00a0%`);

  // Let a pointer take what is next to it and pull it; each grip says where it is, and goes where it is told.
  function pull(stage, grips) {
    let held = null;
    const place = ({ clientX, clientY }) => new DOMPoint(clientX, clientY).matrixTransform(stage.getScreenCTM().inverse());
    const far = (grip, at) => Math.round(Math.hypot(grip.at()[0] - at.x, grip.at()[1] - at.y));
    function next(event) {
      const at = place(event), [grip] = [...grips].sort((a, b) => far(a, at) - far(b, at));
      return far(grip, at) < 24 ? grip : null;
    }
    stage.addEventListener("pointerdown", (event) => {
      if ((held = next(event))) stage.setPointerCapture(event.pointerId);
    });
    const still = (event) => next(event.touches[0]) && event.preventDefault(); // the page does not scroll along
    stage.addEventListener("touchstart", still, { passive: false });
    stage.addEventListener("pointermove", (event) => {
      if (!held) return;
      const { x, y } = place(event);
      held.to(x, y);
      moved(stage);
    });
    for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => (held = null));
  }

  // --- The dials --------------------------------------------------------------------

  function gem(form) {
    const gamma = slider(form, "exponent γ", 3, { values: [1, 1.5, 2, 3, 4, 6, 8, 12, 20, 50, 100] });
    const high = slider(form, "the fourth place", 2, { from: 0, to: 3, step: 0.1 });
    const stage = figure(form, 160, "Four bars, and lines at their mean, their GeM and their maximum.");
    const said = sentence(form), y = (u) => 140 - 42 * u;
    return () => {
      const z = [0.1, 0.2, 0.1, high.value], lines = { mean: mean(z), GeM: pool(z, gamma.value), maximum: Math.max(...z) };
      stage.replaceChildren(
        ...z.map((u, k) => box(12 + 44 * k, y(u), 32, 140 - y(u), "bar image")),
        line(4, 140, 356, 140),
        ...Object.entries(lines).flatMap(([name, u], k) => [
          line(4, y(u), 198 + 44 * k, y(u), name === "GeM" ? "mix" : "thin"),
          write(200 + 44 * k, y(u) - 4, name, name === "GeM" ? "mix" : ""),
        ]),
      );
      const way = (lines.GeM - lines.mean) / (lines.maximum - lines.mean);
      said.replaceChildren(
        "GeM is ", number("gem", lines.GeM), ", the mean ", number("mean", lines.mean), ", the maximum ",
        number("maximum", lines.maximum), ": ", percent("way", Number.isFinite(way) ? way : 0), " of the way up from the one to the other.",
      );
    };
  }

  function mix(form) {
    const tilt = 20, unit = 145, x0 = 165, y0 = 182; // v' points 20 degrees up from the right
    const lambda = slider(form, "weight λ", 0.5, { from: 0, to: 1, step: 0.01 });
    const v = slider(form, "length of v'", 0.9, { from: 0.05, to: 1, step: 0.01 });
    const t = slider(form, "length of t'", 0.35, { from: 0.05, to: 1, step: 0.01 });
    const angle = slider(form, "angle between them", 92, { from: 10, to: 150, step: 1, unit: "°" });
    const stage = figure(form, 200, "The vectors v' and t', the line between their ends, and the query q on the circle.");
    const said = sentence(form), degrees = 180 / Math.PI;
    const end = (length, turn) => [length * Math.cos(turn / degrees), length * Math.sin(turn / degrees)];
    const drawn = ([a, b]) => [x0 + unit * a, y0 - unit * b];
    const read = (x, y) => [(x - x0) / unit, (y0 - y) / unit];
    const image = () => end(v.value, tilt), text = () => end(t.value, tilt + angle.value);
    const mixed = () => image().map((u, i) => lambda.value * u + (1 - lambda.value) * text()[i]);
    pull(stage, [
      { at: () => drawn(image()), to: (x, y) => (v.value = dot(read(x, y), end(1, tilt))) },
      {
        at: () => drawn(text()),
        to(x, y) {
          const [a, b] = read(x, y);
          t.value = Math.hypot(a, b);
          angle.value = Math.atan2(Math.max(b, 0), a) * degrees - tilt;
        },
      },
      {
        at: () => drawn(mixed()),
        to(x, y) {
          const [from, way] = [text(), image().map((u, i) => u - text()[i])];
          lambda.value = within(dot(read(x, y).map((u, i) => u - from[i]), way) / dot(way, way), 0, 1);
        },
      },
    ]);
    return () => {
      const q = mixed(), length = Math.hypot(...q), turn = Math.atan2(q[1], q[0]) * degrees - tilt;
      const [a, b, m] = [image(), text(), q].map(drawn), out = drawn(q.map((u) => u / length));
      const beyond = drawn(q.map((u) => (1.08 * u) / length));
      stage.replaceChildren(
        svg("path", { d: `M${x0 + unit} ${y0}A${unit} ${unit} 0 0 0 ${x0 - unit} ${y0}`, class: "thin" }),
        line(...a, ...b, "mix thin"),
        line(...m, ...out, "mix dotted"),
        line(x0, y0, ...a, "image"),
        line(x0, y0, ...b, "text"),
        spot(...a, "image grip", 7),
        spot(...b, "text grip", 7),
        spot(...m, "mix grip", 7),
        spot(...out, "mix", 4),
        write(a[0] + 2, a[1] + 22, "v'", "image"),
        write(b[0] - 8, b[1] - 10, "t'", "text", "end"),
        write(beyond[0], beyond[1], "q", "mix", "middle"),
      );
      said.replaceChildren(
        "λ is ", number("lambda", lambda.value), "; the image's effective share of q is ",
        number("share", effectiveShare(lambda.value, v.value, t.value)), ". q stands ", number("to-image", turn, 0),
        "° from v' and ", number("to-text", angle.value - turn, 0), "° from t'.",
      );
    };
  }

  function labels(form, { cosines, identities, truth }) {
    const P = hardLabels(identities), all = P.flatMap((row, i) => row.map((_, j) => [i, j]));
    const open = all.filter(([i, j]) => P[i][j] === 0), cell = 166 / P.length;
    const alpha = slider(form, "α", 0.2, { from: 0, to: 1, step: 0.05 });
    const tau = slider(form, "τ", 0.07, { values: [0.01, 0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5] });
    const stage = figure(form, 196, "Two maps of queries and targets: the soft labels, and the truth.");
    const said = sentence(form);
    const map = (x, ink) =>
      all.map(([i, j]) => box(x + cell * j, 24 + cell * i, cell - 1, cell - 1, "bar mix", { opacity: ink(i, j) }));
    return () => {
      const Z = softLabels(cosines, P, alpha.value, tau.value);
      const given = sum(open.map(([i, j]) => Z[i][j])), right = sum(open.map(([i, j]) => Z[i][j] * truth[i][j]));
      stage.replaceChildren(
        write(4, 14, "labels Z"),
        write(190, 14, "truth R"),
        box(4, 24, 166, 166, "ground"),
        box(190, 24, 166, 166, "ground"),
        ...map(4, (i, j) => Math.sqrt(Z[i][j])),
        ...map(190, (i, j) => truth[i][j]),
        ...open.flatMap(([i, j]) => (truth[i][j] ? [box(4 + cell * j, 24 + cell * i, cell - 1, cell - 1, "frame")] : [])),
      );
      said.replaceChildren(
        "Given to targets that hard labels call wrong: ", percent("given", given / P.length), " of the label. ",
        "Recovered share, what of this reaches right ones (framed): ", percent("recovered", given ? right / given : 0),
        "; a blind label would reach ", percent("blind", mean(open.map(([i, j]) => truth[i][j]))), ".",
      );
    };
  }

  const sideOf = ([, low, high]) => (low > 0 ? "above zero" : high < 0 ? "below zero" : "around zero");
  const KINDS = { "above zero": "mix", "below zero": "text", "around zero": "" };

  function concluded(form, { gains }) {
    const rows = Object.entries(gains), longest = Math.max(...rows.map(([, points]) => points.length));
    const bounds = rows.flatMap(([, points]) => points.slice(2).flat());
    const [least, most] = [Math.min(-1, ...bounds), Math.max(1, ...bounds)];
    const x = (gain) => within(8 + (344 * (gain - least)) / (most - least), 2, 358);
    const epochs = slider(form, "epochs", Math.min(3, longest), { from: 1, to: longest });
    const stage = figure(form, 40 * rows.length + 22, "For each comparison the interval of its gain, after so many epochs and at the end.");
    const said = sentence(form), height = 40 * rows.length;
    return () => {
      const now = rows.map(([, points]) => points[Math.min(epochs.value, points.length) - 1]);
      const ends = rows.map(([, points]) => points.at(-1));
      stage.replaceChildren(
        ...rows.flatMap(([name], row) => {
          const [gain, low, high] = now[row], side = sideOf(now[row]), kind = KINDS[side], y = 40 * row + 30;
          return [
            line(x(0), y - 9, x(0), y + 9),
            box(x(ends[row][1]), y - 6, x(ends[row][2]) - x(ends[row][1]), 12, "ghost"),
            line(x(low), y, x(high), y, kind || "ink"),
            spot(x(gain), y, kind || "ink", 4),
            write(4, y - 14, name),
            write(356, y - 14, side, kind, "end"),
          ];
        }),
        ...[least, 0, most].map((gain, k) =>
          write(x(gain), height + 16, written(gain, k === 1 ? 0 : 1), "", ["start", "middle", "end"][k]),
        ),
      );
      const same = now.filter((point, row) => sideOf(point) === sideOf(ends[row])).length;
      said.replaceChildren(
        "Of ", String(rows.length), " conclusions, ", number("same", same, 0), " are those of the last epoch (pale bars). ",
        ...rows.flatMap(([name], row) => [
          row ? ", " : "Gains in points of R@10: ", `${name} `, number(`gain ${name}`, now[row][0], 1),
        ]),
        ".",
      );
    };
  }

  function lesson(form) {
    const corners = [[40, 240], [320, 240], [180, 40]], names = ["A", "B", "C"];
    const cosines = { from: -0.5, to: 0.5, step: 0.01 };
    const teacher = [0.2, 0.3, -0.1].map((start, j) => slider(form, `teacher's cosine to ${names[j]}`, start, cosines));
    const begin = [0.1, -0.1, 0.15];
    let student = begin, steps = [];
    const b = () => softmax(teacher.map((one) => 10 * one.value)), a = () => softmax(student.map((u) => 10 * u));
    const drawn = (shares) => [0, 1].map((axis) => dot(shares, corners.map((corner) => corner[axis])));
    buttons(form, {
      "The student takes a step": () => {
        steps.push(a());
        const [from, to] = [a(), b()]; // down the slope: of KL(b ‖ a) by a's logits it is a - b
        student = student.map((u, j) => u + 0.1 * (to[j] - from[j]));
      },
      "Change roles": () => {
        const before = student;
        student = teacher.map((one) => one.value);
        teacher.forEach((one, j) => (one.value = before[j]));
        steps = [];
      },
      "From the start": () => ([student, steps] = [begin, []]),
    });
    const stage = figure(form, 280, "A triangle of three targets with the teacher's and the student's choice as points.");
    const said = sentence(form);
    // Of a place in the triangle the cosines, with mean zero, whose softmax it is.
    function cosinesAt(x, y) {
      const up = within((240 - y) / 200, 0.01, 0.98), right = within((x - 40 - 140 * up) / 280, 0.01, 0.99 - up);
      const logs = [1 - up - right, right, up].map((share) => Math.log(Math.max(share, 0.01)) / 10);
      return logs.map((u) => u - mean(logs));
    }
    pull(stage, [
      { at: () => drawn(b()), to: (x, y) => cosinesAt(x, y).forEach((u, j) => (teacher[j].value = u)) },
      { at: () => drawn(a()), to: (x, y) => ([student, steps] = [cosinesAt(x, y), []]) },
    ]);
    return () => {
      const [own, taught] = [drawn(a()), drawn(b())], upper = taught[1] < own[1];
      stage.replaceChildren(
        svg("path", { d: `M${corners.join("L")}z`, class: "thin ground" }),
        ...corners.map(([x, y], j) => write(j === 2 ? x + 46 : x, j === 2 ? y + 6 : y + 36, `target ${names[j]}`, "", "middle")),
        ...steps.map((shares) => spot(...drawn(shares), "text", 2)),
        line(...own, ...taught, "dotted ink"),
        spot(...taught, "image grip", 8),
        spot(...own, "text grip", 8),
        write(taught[0], taught[1] + (upper ? -13 : 21), "teacher b", "image", "middle"),
        write(own[0], own[1] + (upper ? 21 : -13), "student a", "text", "middle"),
      );
      said.replaceChildren(
        "KL(b ‖ a), the loss: ", number("loss", divergence(b(), a()), 3), " nats; the other way round it would be ",
        number("reverse", divergence(a(), b()), 3), ". Shares of A, B, C: teacher ", shares(b()), "; student ", shares(a()),
        `. Steps taken: ${steps.length}.`,
      );
    };
  }

  const shares = (choice) => choice.map((share) => written(share, 2)).join(", ");

  function protocol(form, { rules, recalls }) {
    const on = ticks(form, "rules", rules), ks = Object.keys(Object.values(recalls[""])[0]);
    const k = choice(form, "count a hit among the first", ks, "10");
    const rows = Object.keys(recalls[""]);
    const stage = figure(form, 40 * rows.length, "A bar for each row of the leaderboard, and a line where it was without the ticks.");
    const said = sentence(form), x = (recall) => 3.56 * recall + 2;
    return () => {
      const found = recalls[on.value.join(", ")], now = (name) => found[name][k.value];
      const was = (name) => recalls[""][name][k.value], by = (recall) => [...rows].sort((one, other) => recall(other) - recall(one));
      const order = by(now), before = by(was), moved = order.filter((name, row) => name !== before[row]);
      stage.replaceChildren(
        ...order.flatMap((name, row) => [
          write(4, 40 * row + 14, name),
          write(356, 40 * row + 14, `${written(now(name), 1)} (${now(name) < was(name) ? "" : "+"}${written(now(name) - was(name), 1)})`, "", "end"),
          box(2, 40 * row + 20, x(now(name)) - 2, 12, "bar mix"),
          line(x(was(name)), 40 * row + 17, x(was(name)), 40 * row + 35, "ink"),
        ]),
      );
      said.replaceChildren(
        `R@${k.value}, in per cent: `,
        ...order.flatMap((name, row) => [row ? ", " : "", `${name} `, number(`recall ${name}`, now(name), 1)]),
        `. On other places than without the ticks: ${moved.join(", ") || "none"}.`,
      );
    };
  }

  function words(form, { picture, columns, words: spoken, weights, regions }) {
    const named = spoken.map((word, place) => `${place + 1}. ${word}`);
    const word = choice(form, "word", named, named[0]), part = choice(form, "region", Object.keys(regions), Object.keys(regions)[0]);
    for (const label of word.group.querySelectorAll("label")) {
      label.addEventListener("pointerenter", ({ pointerType }) => pointerType === "mouse" && label.click());
    }
    const stage = figure(form, 196, "The reference twice: with the attention of a word, and with the region of an attribute.");
    const said = sentence(form), cell = 170 / columns;
    const over = (x, heat, kind) => [
      svg("image", { href: picture, x, y: 22, width: 170, height: 170 }),
      ...heat.map((ink, k) =>
        box(x + cell * (k % columns), 22 + cell * Math.floor(k / columns), cell, cell, kind, { opacity: 0.8 * ink }),
      ),
    ];
    return () => {
      const heat = weights[named.indexOf(word.value)], region = regions[part.value];
      const [least, most] = [Math.min(...heat), Math.max(...heat)], even = mean(region), inside = dot(heat, region);
      stage.replaceChildren(
        write(4, 14, `where “${word.value.replace(/^\d+\. /, "")}” looks`, "text"),
        write(186, 14, `${part.value}: what it changes`, "mix"),
        ...over(4, heat.map((u) => (u - least) / (most - least || 1)), "bar text"),
        ...over(186, region, "bar mix"),
      );
      said.replaceChildren(
        "In the region: ", percent("inside", inside, 1), " of the word's attention, ", percent("even", even, 1),
        " of the picture: a lift of ", number("lift", even ? inside / even : 0), ". The darkest place has ",
        number("most", most, 3), ", the palest ", number("least", least, 3), ".",
      );
    };
  }

  function world(form, { photos, target, occlusion, blur, details, captions }) {
    const hidden = slider(form, "occlusion", 0, { values: occlusion }), soft = slider(form, "blur", 0, { values: blur });
    const detail = slider(form, "text detail", details.at(-1), { values: details });
    const stage = figure(form, 196, "The reference as the dials show it, and the target.");
    const said = sentence(form), many = occlusion.length * blur.length;
    return () => {
      const photo = occlusion.indexOf(hidden.value) * blur.length + blur.indexOf(soft.value);
      const strip = svg("image", { href: photos, x: -170 * photo, y: 0, width: 170 * many, height: 170, preserveAspectRatio: "none" });
      stage.replaceChildren(
        write(4, 14, "reference", "image"),
        write(186, 14, "target"),
        svg("svg", { x: 4, y: 22, width: 170, height: 170, viewBox: "0 0 170 170", "data-photo": photo }, strip),
        svg("image", { href: target, x: 186, y: 22, width: 170, height: 170 }),
      );
      said.replaceChildren("Text: ", html("q", { "data-fact": "text" }, captions[details.indexOf(detail.value)]));
    };
  }

  const DIALS = {
    gem: ["Pool four places", gem],
    mix: ["Mix two vectors", mix],
    labels: ["Soften the labels", labels],
    concluded: ["What you would have concluded", concluded],
    lesson: ["A lesson on three targets", lesson],
    protocol: ["Change the rules", protocol],
    words: ["Where a word looks", words],
    world: ["One query in other worlds", world],
  };

  for (const place of document.querySelectorAll(".dial")) {
    const name = place.dataset.dial, [title, build] = DIALS[name];
    const kept = document.querySelector(`script[data-dial="${name}"]`);
    if (!kept && build.length > 1) continue; // nothing was computed: the figure beside it stays
    const form = html("fieldset", { id: `dial-${name}` }, html("legend", {}, title));
    const draw = build(form, kept && JSON.parse(kept.textContent));
    form.addEventListener("input", draw);
    draw();
    place.append(form);
  }
})();
