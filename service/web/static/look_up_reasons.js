// Why somebody looks up names: [value, label].
export const LOOKUP_REASONS = [
  ["duty_of_care", "Duty of care: somebody may be at risk"], ["withdrawal", "A participant withdraws"], ["member_checking", "A participant checks a transcript"],
  ["correction", "Correcting the roster"], ["audit", "Audit"], ["review", "Review of a transcript"], ["release", "Release of a transcript"], ["export", "Export"],
];
