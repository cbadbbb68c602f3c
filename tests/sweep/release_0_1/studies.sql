BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'begun');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MINIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["valid_l1"]');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'slicewise','{"space": {"student.qkv_layers": {"name": "CategoricalDistribution", "attributes": {"choices": [0, 1, 2]}}}, "config": {"teacher": {"_target_": "slicewise.teacher.random_bert", "first_layer": 0, "num_layers": 2, "hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48, "seed": 0}, "student": {"_target_": "slicewise.students.approx.ApproximateAttention", "num_attention_heads": 2, "attention_hidden_size": 4, "value_dim": null, "input_dim": null, "output_dim": null, "dropout": 0.1, "layer_norm_eps": 1e-12, "init": "random"}, "data": {"_target_": "slicewise.data.noise.NoiseDataModule", "batch_size": 4, "seq_length": 8, "train_batches": 400, "valid_batches": 2, "seed": 0}, "optimizer": {"_target_": "torch.optim.AdamW", "_partial_": true, "lr": 0.001, "weight_decay": 0.0001, "fused": true}, "scheduler": null, "trainer": {"_target_": "pytorch_lightning.Trainer", "devices": 1, "num_nodes": 1, "precision": "32-true", "max_epochs": 1, "max_steps": -1, "max_time": null, "limit_train_batches": null, "limit_val_batches": null, "val_check_interval": 0.2, "check_val_every_n_epoch": 1, "num_sanity_val_steps": 0, "log_every_n_steps": 10, "accumulate_grad_batches": 1, "gradient_clip_val": 1.0, "deterministic": true, "enable_model_summary": false}, "objective": {"metrics": ["valid_l1"], "direction": "minimize", "max_parameters": null, "max_latency_ms": null}, "seed": 0}}');
INSERT INTO "study_user_attributes" VALUES(2,1,'plan','{"n_trials": 3, "directory": "{folder}/multirun/begun", "command": "python -m sweep -m experiment=tiny trainer.accelerator=cpu student.qkv_layers=0,1,2 data.train_batches=400 callbacks.resume_point.every_seconds=0.1 study=begun", "sampler": "TPESampler", "pruner": "NopPruner"}');
INSERT INTO "study_user_attributes" VALUES(3,1,'sweep:079a64','{"host": "elsewhere", "hostname": "elsewhere", "pid": 20678, "started": "2026-11-27T00:05:13.876+00:00", "sweep": "079a64", "beat": 45, "state": "ended", "stop": true}');
INSERT INTO "study_user_attributes" VALUES(4,1,'worker:079a64/0-f6ed','{"host": "elsewhere", "hostname": "elsewhere", "pid": 21001, "started": "2026-11-27T00:05:28.026+00:00", "sweep": "079a64", "beat": 9, "state": "ended", "stop": false}');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'student.qkv_layers',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0, 1, 2]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{"student.qkv_layers": 0}');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'worker','"079a64/0-f6ed"');
INSERT INTO "trial_user_attributes" VALUES(2,1,'directory','"{folder}/multirun/begun/0"');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'WAITING','2026-11-27 00:05:28.263231',NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
