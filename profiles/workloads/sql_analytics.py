"""Analytical SQL (DuckDB): four queries over tables shaped as those of TPC-H, read from Parquet files.

This is not TPC-H: the tables have the columns those queries need, filled from a fixed seed by the expressions below
and not by the benchmark's generator, and the queries, which ask what its numbers 1, 3, 6 and 18 ask, are in our own
words. The full input has 72 million orders with 288 million lines; memory grows with it. Tables are made once for each
scale and kept; what is timed is reading and querying them.
"""

from pathlib import Path

import duckdb
from common import cached, data_directory, scale, workers

FULL_ORDERS = 72_000_000
ORDERS_A_CUSTOMER = 10
LINES_AN_ORDER = 4

# hash(key, salt) % n rather than random(): the same rows whatever the number of threads.
TABLES = {
    "customer": """
        SELECT range AS customer_key,
               ['AUTOMOBILE', 'BUILDING', 'FURNITURE', 'HOUSEHOLD', 'MACHINERY'][(1 + hash(range, 1) % 5)::INTEGER]
                   AS segment
        FROM range({customers})""",
    "orders": """
        SELECT range AS order_key,
               (hash(range, 2) % {customers})::BIGINT AS customer_key,
               DATE '1992-01-01' + (hash(range, 3) % 2400)::INTEGER AS order_date,
               (hash(range, 4) % 50_000_000) / 100.0 AS total_price
        FROM range({orders})""",
    "line": """
        SELECT range // {lines_an_order} AS order_key,
               1 + (hash(range, 5) % 50)::INTEGER AS quantity,
               900 + (hash(range, 6) % 10_000_000) / 100.0 AS price,
               (hash(range, 7) % 11) / 100.0 AS discount,
               (hash(range, 8) % 9) / 100.0 AS tax,
               ['A', 'N', 'R'][(1 + hash(range, 9) % 3)::INTEGER] AS return_flag,
               ['F', 'O'][(1 + hash(range, 10) % 2)::INTEGER] AS line_status,
               DATE '1992-01-01' + (hash(range // {lines_an_order}, 3) % 2400 + 1 + hash(range, 11) % 121)::INTEGER
                   AS ship_date
        FROM range({orders} * {lines_an_order})""",
}

QUERIES = {
    "totals by status of all lines shipped by a day": """
        SELECT return_flag, line_status, sum(quantity), sum(price), sum(price * (1 - discount)),
               sum(price * (1 - discount) * (1 + tax)), avg(quantity), avg(price), avg(discount), count(*)
        FROM line WHERE ship_date <= DATE '1998-09-02' GROUP BY ALL ORDER BY ALL""",
    "ten open orders of a segment worth most": """
        SELECT order_key, sum(price * (1 - discount)) AS revenue, order_date
        FROM line JOIN orders USING (order_key) JOIN customer USING (customer_key)
        WHERE segment = 'BUILDING' AND order_date < DATE '1995-03-15' AND ship_date > DATE '1995-03-15'
        GROUP BY order_key, order_date ORDER BY revenue DESC, order_key LIMIT 10""",
    "what small discounts cost in a year": """
        SELECT sum(price * discount) FROM line
        WHERE year(ship_date) = 1994 AND discount BETWEEN 0.05 AND 0.07 AND quantity < 24""",
    "customers of the largest orders": """
        SELECT customer_key, order_key, order_date, total_price, sum(quantity) AS ordered
        FROM line JOIN orders USING (order_key)
        WHERE order_key IN (SELECT order_key FROM line GROUP BY order_key HAVING sum(quantity) > 180)
        GROUP BY ALL ORDER BY total_price DESC, order_key LIMIT 100""",
}


def main() -> None:
    """Run every query twice."""
    orders = round(FULL_ORDERS * scale())
    sizes = {
        "orders": orders,
        "customers": max(1, orders // ORDERS_A_CUSTOMER),
        "lines_an_order": LINES_AN_ORDER,
    }
    with duckdb.connect(config={"threads": workers(), "temp_directory": str(data_directory())}) as database:

        def make(path: Path, select: str) -> None:
            database.execute(f"COPY ({select.format(**sizes)}) TO '{path}' (FORMAT parquet)")

        for table, select in TABLES.items():
            file = cached(f"{table}-{orders}.parquet", lambda path, select=select: make(path, select))  # type: ignore[misc]
            database.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{file}')")
        for _ in range(2):
            for question, query in QUERIES.items():
                rows = database.execute(query).fetchall()
                print(f"{question}: {len(rows)} rows, the first {rows[0] if rows else '-'}")


if __name__ == "__main__":
    main()
