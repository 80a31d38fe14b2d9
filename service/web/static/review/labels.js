// The words that the steps of a review share.

/** What a mention is, by label, in the order in which they are listed. */
export const LABELS = {
  PERSON: "Person", PLACE: "Place", ORGANISATION: "Organisation", ADDRESS: "Address", DATE: "Date", AGE: "Age", PHONE: "Phone number",
  ID: "Number or code", EMAIL: "Email address", WEB: "Web address", HANDLE: "User name", OTHER: "Other",
};
export const ORDER = Object.keys(LABELS);

const RULES = { roster: "on the roster", person: "marked by a person", fieldscribe: "a known name", repeated_name: "named elsewhere in the transcript", sample: "found by a second reader" };

/** Why a mention was suggested: "on the roster, first name". */
export function reasons(mention) {
  const each = mention.votes.map((vote) => RULES[vote.rule] || RULES[vote.stage] || (vote.rule || "").replaceAll("_", " "));
  return [...new Set(each.filter(Boolean))].join(", ");
}
