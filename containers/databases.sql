-- Beside Dagster's database, which the image makes: the ledger's and MLflow's.
CREATE DATABASE ledger;
CREATE DATABASE mlflow;
