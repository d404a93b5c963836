/* The developer's page: the gateway's address as this browser sees it, and a test of the key that stays in the browser. */

(() => {
    "use strict";

    const PATIENCE = 20000;

    for (const place of document.querySelectorAll(".me-origin")) {
        place.textContent = window.location.origin;
    }

    const test = document.getElementById("me-test");
    if (!test) {
        return;
    }
    const key = document.getElementById("me-test-key");
    const model = document.getElementById("me-test-model");
    const run = document.getElementById("me-test-run");
    const results = document.getElementById("me-test-results");
    test.hidden = false;

    function say(words, well) {
        const line = document.createElement("li");
        line.className = well ? "cc-good" : "cc-bad";
        line.textContent = words;
        results.append(line);
    }

    /* As Claude Code would: the key in a header, no cookie. What the gateway says is text. */
    async function ask(path, token, body) {
        const began = performance.now();
        const headers = { "x-api-key": token, "anthropic-version": "2023-06-01" };
        if (body) {
            headers["content-type"] = "application/json";
        }
        const answer = await fetch(path, {
            method: body ? "POST" : "GET",
            headers,
            body: body && JSON.stringify(body),
            credentials: "omit",
            cache: "no-store",
            signal: AbortSignal.timeout(PATIENCE),
        });
        const said = await answer.json().catch(() => null);
        return { ok: answer.ok, status: answer.status, said, ms: Math.round(performance.now() - began) };
    }

    function reason(answer) {
        const message = answer.said && answer.said.error && answer.said.error.message;
        return typeof message === "string" ? `${answer.status}: ${message}` : `status ${answer.status}`;
    }

    async function tryModels(token) {
        const answer = await ask("/v1/models?limit=1000", token);
        if (!answer.ok) {
            say(`The key was refused, ${reason(answer)}`, false);
            return false;
        }
        const number = Array.isArray(answer.said && answer.said.data) ? answer.said.data.length : 0;
        say(`The key is good: it may use ${number} ${number === 1 ? "model" : "models"} (${answer.ms} ms).`, true);
        return number > 0;
    }

    async function tryCounting(token) {
        const body = { model: model.value, messages: [{ role: "user", content: "Hello" }] };
        const answer = await ask("/v1/messages/count_tokens", token, body);
        if (answer.ok && answer.said && Number.isInteger(answer.said.input_tokens)) {
            say(`${model.value} has a route: a greeting was counted as ${answer.said.input_tokens} tokens (${answer.ms} ms).`, true);
            say("Claude Code can start. The line above tells when its first request has come.", true);
        } else {
            say(`${model.value} cannot be asked, ${reason(answer)}`, false);
        }
    }

    async function testAll() {
        const token = key.value.trim();
        results.replaceChildren();
        if (!token) {
            say("Paste your key first.", false);
            key.focus();
            return;
        }
        if (!/^[\x21-\x7e]+$/.test(token)) {
            say("This is no key: it holds a space or a letter that no key has. Copy it again.", false);
            return;
        }
        run.disabled = true;
        try {
            if ((await tryModels(token)) && model.value) {
                await tryCounting(token);
            }
        } catch (error) {
            const late = error instanceof DOMException && error.name === "TimeoutError";
            say(late ? `The gateway did not answer in ${PATIENCE / 1000} s.` : "The gateway cannot be reached from this browser.", false);
        } finally {
            run.disabled = false;
        }
    }

    run.addEventListener("click", testAll);
    key.addEventListener("keydown", (event) => {
        if (event.key === "Enter") {
            testAll();
        }
    });
})();
