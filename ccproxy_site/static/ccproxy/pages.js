/* Buttons that copy: <button type="button" class="cc-copy" data-copy="#id-of-element">Copy</button> */

(() => {
    "use strict";

    const SAID_FOR = 2000;

    function textOf(element) {
        return "value" in element ? element.value : element.textContent;
    }

    function select(element) {
        if (typeof element.select === "function") {
            element.select();
        } else {
            window.getSelection().selectAllChildren(element);
        }
    }

    /* The clipboard is there over https and on localhost only; the old command works everywhere else. */
    async function copy(element) {
        if (navigator.clipboard && window.isSecureContext) {
            try {
                await navigator.clipboard.writeText(textOf(element));
                return true;
            } catch {
                /* refused, by a policy or a lost focus: the other way */
            }
        }
        select(element);
        return document.execCommand("copy");
    }

    function say(button, words, well) {
        button.dataset.label ??= button.textContent;
        button.textContent = words;
        button.classList.toggle("cc-copied", well);
        clearTimeout(button.ccTimer);
        button.ccTimer = setTimeout(() => {
            button.textContent = button.dataset.label;
            button.classList.remove("cc-copied");
        }, SAID_FOR);
    }

    document.addEventListener("click", async (event) => {
        const button = event.target instanceof Element ? event.target.closest("button.cc-copy[data-copy]") : null;
        const element = button && document.querySelector(button.dataset.copy);
        if (element) {
            const copied = await copy(element);
            say(button, copied ? "Copied" : "Selected: press Ctrl+C", copied);
        }
    });
})();
