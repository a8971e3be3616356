// Requests that survive a server that is away, and what the browser keeps so that a reload loses nothing.

const PATIENCE = 15_000; // milliseconds until a request counts as lost
const PAUSES = [300, 700, 1500, 3000, 5000];
const AGAIN = [408, 425, 429, 500, 502, 503, 504, 507];

export class Rejected extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** Send a request until the server answers it; `onState` gets null, or why it is tried again. Throws Rejected. */
export async function request(path, body, onState = () => {}) {
  for (let tries = 0; ; tries += 1) {
    try {
      const options = { credentials: "same-origin", cache: "no-store", signal: AbortSignal.timeout(PATIENCE) };
      if (body !== undefined) {
        const headers = { "content-type": "application/json" };
        Object.assign(options, { method: "POST", headers, body: JSON.stringify(body) });
      }
      const answer = await fetch(path, options);
      const content = await answer.json();
      if (answer.ok) {
        onState(null);
        return content;
      }
      if (!AGAIN.includes(answer.status)) throw new Rejected(answer.status, content.error || answer.statusText);
      onState(content.error || answer.statusText);
    } catch (error) {
      if (error instanceof Rejected) {
        onState(null);
        throw error;
      }
      onState("the server does not answer");
    }
    const pause = PAUSES[Math.min(tries, PAUSES.length - 1)];
    await new Promise((resume) => setTimeout(resume, pause * (0.8 + 0.4 * Math.random())));
  }
}

/** A random UUID; crypto.randomUUID exists only on https and localhost. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join("-");
}

/** JSON in localStorage, under names of one labeler and folder; a full or forbidden storage keeps nothing. */
export class Kept {
  constructor(...scope) {
    this.prefix = `hfkit label/${scope.map(encodeURIComponent).join("/")}/`;
  }

  get(name) {
    try {
      return JSON.parse(localStorage.getItem(this.prefix + name));
    } catch {
      return null;
    }
  }

  set(name, value) {
    try {
      if (value === null) localStorage.removeItem(this.prefix + name);
      else localStorage.setItem(this.prefix + name, JSON.stringify(value));
    } catch {
      // The page works without it.
    }
  }

  /** The names that start with a word. */
  names(start) {
    try {
      const names = Object.keys(localStorage).filter((name) => name.startsWith(this.prefix + start));
      return names.map((name) => name.slice(this.prefix.length)).sort();
    } catch {
      return [];
    }
  }
}

/** Sends events one after the other. Each is kept until the server has answered, so that a reload sends it again. */
export class Sender {
  constructor(kept, onState) {
    this.kept = kept;
    this.onState = onState;
  }

  async send(path, event) {
    const name = `pending/${String(Date.now()).padStart(15, "0")}/${event.id}`;
    this.kept.set(name, { path, event });
    return this.deliver(name, path, event);
  }

  async deliver(name, path, event) {
    try {
      const answer = await request(path, event, this.onState);
      this.kept.set(name, null);
      return answer;
    } catch (error) {
      if (error.status !== 401) this.kept.set(name, null);
      throw error;
    }
  }

  /** Send what an earlier page could not. Returns the rows whose events arrived, and why others were rejected. */
  async resend() {
    const rows = [], faults = [];
    for (const name of this.kept.names("pending/")) {
      const { path, event } = this.kept.get(name) || {};
      if (!path) continue;
      try {
        await this.deliver(name, path, event);
        if (event.row) rows.push(event.row);
      } catch (error) {
        if (!(error instanceof Rejected) || error.status === 401) throw error;
        faults.push(error.message);
      }
    }
    return { rows, faults };
  }
}
