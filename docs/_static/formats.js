// The values of a format as a table of its codes; a number typed in shows its two neighbours and where it goes.
// Values come with the page, decoded by the package. Nothing is loaded.
"use strict";

(() => {
  const formats = JSON.parse(document.getElementById("format-data").textContent);
  const root = document.getElementById("format-values");
  root.replaceChildren();

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const read = (text) => (text === "inf" ? Infinity : text === "-inf" ? -Infinity : text === "nan" ? NaN : Number(text));
  const show = (value) => {
    if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value > 0 ? "∞" : "−∞";
    if (Object.is(value, -0)) return "−0";
    const size = Math.abs(value);
    const power = Math.log2(size);
    const text = size && (size < 1e-3 || size > 1e6) && Number.isInteger(power) ? `2^${power}` : String(+size.toPrecision(7));
    return (value < 0 ? "−" : "") + text;
  };
  const hexadecimal = (code, bits) => "0x" + code.toString(16).toUpperCase().padStart(Math.ceil(bits / 4), "0");

  const choice = make("select", { "aria-label": "format" });
  for (const name of Object.keys(formats)) choice.append(make("option", {}, name));
  const number = make("input", { type: "text", value: "1.0625", size: "12", "aria-label": "number", inputmode: "decimal" });
  const asked = make("label", {}, " a number ", number);
  const answer = make("p", { class: "answer", "aria-live": "polite" });
  const place = make("div", { class: "grid", tabindex: "0" });
  const detail = make("p", { class: "detail", "aria-live": "polite" }, "Point at a value, or click it, to see its bits.");
  root.append(make("p", {}, make("label", {}, "format ", choice), asked), answer, place, detail);

  let values = [];
  let cells = [];

  function describe(code) {
    const format = formats[choice.value];
    const signed = format.bits - format.exponent - format.mantissa;
    const bits = code.toString(2).padStart(format.bits, "0");
    const part = (from, to, kind) => make("span", { class: kind }, bits.slice(from, to));
    detail.replaceChildren(
      `${hexadecimal(code, format.bits)} = `,
      part(0, signed, "sign"),
      part(signed, signed + format.exponent, "exponent"),
      part(signed + format.exponent, format.bits, "mantissa"),
      ` = ${show(values[code])}`,
    );
    const field = parseInt(bits.slice(signed, signed + format.exponent) || "0", 2);
    if (!Number.isFinite(values[code])) return;
    if (format.bias === null) return detail.append(", an integer");
    const low = format.mantissa ? parseInt(bits.slice(signed + format.exponent), 2) : 0;
    const subnormal = field === 0 && signed > 0;
    const exponent = (subnormal ? 1 : field) - format.bias;
    const fraction = format.mantissa ? ` × ${subnormal ? "" : `(1 + `}${low}/${1 << format.mantissa}${subnormal ? "" : ")"}` : "";
    detail.append(`, ${subnormal ? "subnormal" : "normal"}: ${values[code] < 0 ? "−" : ""}2^${exponent}${fraction}`);
  }

  function round() {
    cells.forEach((cell) => cell && cell.classList.remove("near", "taken"));
    const format = formats[choice.value];
    const signed = format.bits > format.exponent + format.mantissa;
    asked.hidden = !signed;
    answer.textContent = "";
    const x = Number(number.value.trim().replace("−", "-"));
    if (!signed || number.value.trim() === "") return;
    if (Number.isNaN(x)) return void (answer.textContent = "That is not a number.");
    const largest = read(format.largest);
    // Zero counts once; a code below −largest (of integers) is never made.
    const codes = values
      .map((value, code) => code)
      .filter((code) => Number.isFinite(values[code]) && Math.abs(values[code]) <= largest && !Object.is(values[code], -0))
      .sort((a, b) => values[a] - values[b]);
    const above = codes.find((code) => values[code] >= x);
    const below = codes.findLast((code) => values[code] <= x);
    let taken, why;
    if (above === undefined || below === undefined) {
      taken = above === undefined ? below : above;
      why = "beyond the largest value, which it saturates to";
    } else if (above === below) {
      taken = above;
      why = "a value of the format";
    } else {
      const middle = (values[above] + values[below]) / 2; // exact: both have at most eight bits
      cells[above].classList.add("near");
      cells[below].classList.add("near");
      const tie = x === middle;
      taken = tie ? (even(above, format) ? above : below) : x > middle ? above : below;
      why = `between ${show(values[below])} and ${show(values[above])}${tie ? ": a tie, the even code is taken" : ""}`;
    }
    cells[taken].classList.add("taken");
    answer.textContent = `${show(x)} is ${why}. Nearest even: ${show(values[taken])}, code ${hexadecimal(taken, format.bits)}.`;
  }

  function even(code, format) {
    return format.bias === null ? values[code] % 2 === 0 : code % 2 === 0;
  }

  function fill() {
    const format = formats[choice.value];
    values = format.values.map(read);
    const columns = Math.min(Math.max(1 << format.mantissa, 8), 16); // a row is an octave, where that fits
    const body = make("tbody");
    cells = [];
    for (let start = 0; start < values.length; start += columns) {
      const row = make("tr", {}, make("th", { scope: "row" }, hexadecimal(start, format.bits)));
      for (let code = start; code < start + columns; code++) {
        const value = values[code];
        const kind = Number.isFinite(value) ? (value === 0 ? "zero" : "") : "special";
        const cell = make("td", kind ? { class: kind } : {}, show(value));
        for (const event of ["mouseenter", "click"]) cell.addEventListener(event, () => describe(code));
        cells.push(cell);
        row.append(cell);
      }
      body.append(row);
    }
    const heads = Array.from({ length: columns }, (_, i) => make("th", { scope: "col" }, "+" + i.toString(16).toUpperCase()));
    place.replaceChildren(make("table", {}, make("thead", {}, make("tr", {}, make("th"), ...heads)), body));
    round();
  }

  choice.addEventListener("change", fill);
  number.addEventListener("input", round);
  fill();
})();
