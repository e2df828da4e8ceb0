/* Wide equations shrink a little until they fit; what still scrolls sideways is reached and scrolled by keyboard. */
(() => {
  "use strict";
  const EQUATIONS = "mjx-container[display='true']";
  const BOXES = `${EQUATIONS}, .table-box, .pst-scrollable-table-container`;
  const SMALLEST = 0.78; // of an equation's size; below that one would not read it
  let width = window.innerWidth;

  function isWider(box) {
    return box.scrollWidth > box.clientWidth + 1;
  }

  function shrink(equation) {
    equation.style.setProperty("--shrink", 1);
    if (isWider(equation)) {
      equation.style.setProperty("--shrink", Math.max(SMALLEST, (0.99 * equation.clientWidth) / equation.scrollWidth));
    }
  }

  function reach(box) {
    const scrolls = isWider(box);
    box.classList.toggle("scrolls", scrolls);
    if (scrolls) {
      box.tabIndex = 0;
    } else if (!box.matches(EQUATIONS)) {
      box.removeAttribute("tabindex");
    }
    if (scrolls && box.querySelector("table")) {
      box.setAttribute("role", "region");
      box.setAttribute("aria-label", "A table that scrolls sideways");
    }
  }

  function fit() {
    document.querySelectorAll(EQUATIONS).forEach(shrink);
    document.querySelectorAll(BOXES).forEach(reach);
    document.documentElement.classList.add("fitted");
  }

  window.addEventListener("load", () => {
    fit();
    window.MathJax?.startup?.promise.then(fit);
    document.addEventListener("toggle", fit, true); // a fold that opens shows what had no width before
    window.addEventListener("resize", () => {
      if (width === window.innerWidth) return; // a phone's bar that goes while one scrolls changes the height alone
      width = window.innerWidth;
      fit();
    });
  });
})();
