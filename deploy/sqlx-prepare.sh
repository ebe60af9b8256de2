#!/bin/sh
# Writes .sqlx/: what the build needs to check every query without a database.
# Run it after a change of migrations/ or of a query, and commit what it wrote.
set -eu
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
for step in migrations/*.sql; do
    sqlite3 "$scratch/podd.db" <"$step"
done
mkdir "$scratch/sqlx"
# The queries are looked at while the library is compiled, so it has to be compiled anew.
touch src/lib.rs
DATABASE_URL="sqlite://$scratch/podd.db" SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$scratch/sqlx" cargo check --quiet --lib
rm -rf .sqlx
mv "$scratch/sqlx" .sqlx
echo "$(find .sqlx -name '*.json' | wc -l) queries written to .sqlx/"
